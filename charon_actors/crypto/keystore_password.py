"""Which bytes a keystore's key is derived from: the forms that one password has had. Pure.

    form                        control characters dropped       marks, Hangul                               written by
    EIP-2335                    C0, DEL, C1                      kept, decomposed (NFKD)                     this program, most others
    with C1                     C0, DEL                          kept, decomposed (NFKD)                     the Go library of Charon
    first of each (old Go)      C0, DEL                          `contraseña` is contrasena, `각` is ᄀ        the same library, once

For almost every password the three are one, and a wrong one costs one derivation. Where they differ they are tried in this order,
and only the checksum of the keystore says that one is right: a form adds passwords that are tried, never keys that are accepted.

The old form cuts the decomposed text into segments and keeps the first character of each, as `norm.Iter` of Go's x/text walks:

    a character of class 0 (no mark)                                  begins a segment
    a mark (class above 0)                                            stays in the segment
    BACKWARDS: class 0, but composes with the character before        stays, unless marks stood in disorder in this segment

In a segment of marks alone (the text begins with one) the first is that of the lowest class. Not followed: x/text puts U+034F between
more than 30 marks in a row.

Limits: MAX_PASSWORD_CHARACTERS. Source: EIP-2335, password requirements; specification 01-cluster-files section 7.1; the vectors of
tests/vectors/field/old_passwords.json, made with x/text.
"""

import unicodedata
from typing import Final

from charon_actors.crypto.faults import KeystoreFault
from charon_actors.file_kinds import BYTE_ORDER_MARK, LOOKED_AT, clause, what_it_is

MAX_PASSWORD_CHARACTERS: Final = 1024
MISTAKEN_CHARACTERS: Final = 64  # what is shorter may be a password, however it begins

_JAMO: Final = (range(0x1161, 0x1176), range(0x11A8, 0x11C3))  # vowels and finals of Hangul
_SIGNS: Final = (  # of Indic and similar scripts: the second parts of what Unicode composes, as far as they have class 0
    *(0x09BE, 0x09D7, 0x0B3E, 0x0B56, 0x0B57, 0x0BBE, 0x0BD7, 0x0CC2, 0x0CD5, 0x0CD6, 0x0D3E, 0x0D57),
    *(0x0DCF, 0x0DDF, 0x102E, 0x1B35, 0x11127, 0x1133E, 0x11357, 0x114B0, 0x114BA, 0x114BD, 0x115AF, 0x11930),
)
BACKWARDS: Final = frozenset(map(chr, [*_SIGNS, *(code for jamo in _JAMO for code in jamo)]))


def normalise_password(password: str, *, keep_c1: bool = False) -> bytes:
    """NFKD without control characters, as UTF-8. `keep_c1` keeps U+0080 … U+009F, as Charon's library does.

    Raises KeystoreFault when it is not text or longer than MAX_PASSWORD_CHARACTERS.
    """
    if not _is_short_text(password):
        raise KeystoreFault("", f"password is not text of up to {MAX_PASSWORD_CHARACTERS} characters{mistaken(password)}")
    return _without_control(unicodedata.normalize("NFKD", password), keep_c1=keep_c1)


def password_candidates(password: str) -> list[bytes]:
    """The forms of the table, each once, in the order in which they are tried. Raises KeystoreFault as `normalise_password`."""
    forms = (normalise_password(password), normalise_password(password, keep_c1=True), _old_form(password))
    return list(dict.fromkeys(forms))


def mistaken(password: object) -> str:
    """What a password that was refused seems to be instead, to put behind the reason. "" for what may be one: nothing is said of that."""
    if not isinstance(password, str):
        return ""
    content = password[:LOOKED_AT].encode("utf-8", "replace")
    is_told = len(password) >= MISTAKEN_CHARACTERS or not password.strip("\ufeff\r\n\t ") or content.startswith(BYTE_ORDER_MARK)
    return clause(what_it_is(content) if is_told else "", " (the password's file ", ")")


def _is_short_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_PASSWORD_CHARACTERS


def _old_form(password: str) -> bytes:
    if password.isascii():
        return _without_control(password, keep_c1=True)
    segments: list[list[str]] = []
    is_disordered, last_class = False, 0
    for character in (each for undecomposed in password for each in unicodedata.normalize("NFKD", undecomposed)):
        mark_class = unicodedata.combining(character)
        stays = mark_class > 0 or (character in BACKWARDS and not is_disordered)
        if segments and stays:
            segments[-1].append(character)
            is_disordered |= mark_class < last_class
        else:
            segments.append([character])
            is_disordered = False
        last_class = mark_class
    return _without_control("".join(map(_first, segments)), keep_c1=True)


def _first(segment: list[str]) -> str:
    return min(segment, key=unicodedata.combining) if all(map(unicodedata.combining, segment)) else segment[0]


def _without_control(text: str, *, keep_c1: bool) -> bytes:
    kept = "".join(each for each in text if not (each < " " or each == "\x7f" or ("\x80" <= each <= "\x9f" and not keep_c1)))
    try:
        return kept.encode()
    except UnicodeEncodeError:  # half a surrogate pair; its text would show a part of the password
        raise KeystoreFault("", "password is not valid Unicode") from None

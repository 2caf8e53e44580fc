"""What operators give in the place of a file, at every reader: one line says what it is and what to do, in nobody's jargon but theirs."""

import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from charon_actors.enr import new_record
from tests.charon_actors.cluster.vectors import CLUSTER
from tests.charon_actors.test_enr import CONSENSUS, forged
from tests.cli.conftest import Charon, Outcome
from tests.cli.test_combine import CREATE, unpack

LOCK = (CLUSTER / "signed-v1_11_0/cluster-lock.json").read_bytes()
DEFINITION = (CLUSTER / "golden/cluster_definition_v1_10_0.json").read_bytes()
DEPOSITS = (CLUSTER / "signed-v1_11_0/deposit-data.json").read_bytes()
OVERRIDES = (CLUSTER / "cli-files/builder_registrations_overrides.json").read_bytes()
KEYSTORE = (CLUSTER / "keystores/keystore-insecure-0.json").read_bytes()
ENR = new_record(b"\1" * 32).encode().encode()
KEY = b"7f" * 32
HTML = b"<!DOCTYPE html>\n<html><head><title>GitHub</title></head><body>" + b"<p>sign in</p>" * 80 + b"</body></html>"


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("file.json", content)
    return buffer.getvalue()


# kind: how it is made from the right content, and what the line must say that it is
KINDS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a web page": (lambda right: HTML, "is a web page (download the file itself"),
    "a web page behind a mark": (lambda right: b"\xef\xbb\xbf\r\n" + HTML, "is a web page (download the file itself"),
    "XML": (lambda right: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>" + b" " * 99, "is XML or a web page"),
    "nothing": (lambda right: b"", "is empty"),
    "white space": (lambda right: b" \r\n\n", "is empty"),
    "zeros": (lambda right: bytes(4096), "holds only zero bytes (the disk"),
    "gzip": (gzip.compress, "is compressed with gzip (unpack it first)"),
    "zip": (zipped, "is a zip archive (unpack it first)"),
    "UTF-16": (lambda right: right.decode().encode("utf-16"), "is text in UTF-16 (save it as UTF-8"),
    "UTF-16, big end first": (
        lambda right: b"\xfe\xff" + right.decode().encode("utf-16-be"),
        "is text in UTF-16 (save it as UTF-8",
    ),
    "a byte order mark": (lambda right: b"\xef\xbb\xbf" + right, "starts with a byte order mark (save it as UTF-8 without"),
    "cut": (lambda right: right[: len(right) * 2 // 3], "ends in the middle, at line "),
    "a private key": (lambda right: KEY + b"\n", "is 64 hex digits, as a private key has (nobody else may see one)"),
    "a private key with 0x": (lambda right: b"0x" + KEY, "is 0x and 64 hex digits, as a private key has"),
    "a PEM key": (
        lambda right: b"-----BEGIN EC PRIVATE KEY-----\n" + b"QUFB" * 20 + b"\n",
        "is a private key in PEM (nobody else may",
    ),
    "a certificate": (
        lambda right: b"-----BEGIN CERTIFICATE-----\n" + b"QUFB" * 20,
        "is a key or certificate of another program",
    ),
    "an ENR": (lambda right: ENR, "is an ENR"),
    "a URL": (lambda right: b"https://example.org/" + b"v1/definition/" * 5 + b"\n", "is a URL (give what stands there)"),
    "a side file of macOS": (lambda right: b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(88), "is a side file of macOS (delete it"),
    "a photo": (lambda right: b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(500), "is an image"),
    "noise": (lambda right: random.Random(1).randbytes(500), "is binary, or text in another encoding"),
    "a lock": (lambda right: LOCK, "is a cluster lock"),
    "a definition": (lambda right: DEFINITION, "is a cluster definition"),
    "a keystore": (lambda right: KEYSTORE, "is a keystore"),
    "deposit data": (lambda right: DEPOSITS, "is deposit data"),
    "registrations": (lambda right: OVERRIDES, "is builder registrations"),
    "a server's error": (
        lambda right: json.dumps({"message": "not found, " * 9, "code": 404}).encode(),
        "is an error that a server answered (fetch it again)",
    ),
}
SHAPES = {"a lock", "a definition", "a keystore", "deposit data", "registrations", "a server's error"}


class Reader:
    """right: content it takes. ask: writes the content where the reader looks (None: a directory) and calls charon."""

    def __init__(self, right: bytes, ask: Callable[[Charon, bytes | None], Outcome], *without: str) -> None:
        self.right, self.ask, self.without = right, ask, without


def put(path: str, content: bytes | None) -> None:
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.mkdir() if content is None else place.write_bytes(content)


def definition(charon: Charon, content: bytes | None) -> Outcome:
    put("given.json", content)
    return charon("create", "cluster", "--definition-file=given.json", "--cluster-dir=made")


def definition_of_ceremony(charon: Charon, content: bytes | None) -> Outcome:
    charon("create", "enr")
    put(".charon/cluster-definition.json", content)
    return charon("dkg")


def lock(charon: Charon, content: bytes | None) -> Outcome:
    unpack("1.10.3-n3v1-insecure.tar.gz")
    Path("cluster/node1/cluster-lock.json").unlink()
    put("cluster/node1/cluster-lock.json", content)
    return charon("combine", "--cluster-dir=cluster", "--output-dir=out")


def lock_of_run(charon: Charon, content: bytes | None) -> Outcome:
    charon("create", "enr")
    put(".charon/cluster-lock.json", content)
    return charon("run", "--beacon-node-endpoints=http://127.0.0.1:1", "--p2p-relays=")


def verified(name: str) -> Callable[[Charon, bytes | None], Outcome]:
    def ask(charon: Charon, content: bytes | None) -> Outcome:
        put(f"files/{name}", content)
        put("lock.json", LOCK)
        return charon("verify", f"files/{name}", "--lock-file=lock.json")

    return ask


def keystore(charon: Charon, content: bytes | None) -> Outcome:
    put("keys/keystore-0.json", content)
    put("keys/keystore-0.txt", b"password")
    return charon(*CREATE, "--nodes=4", "--split-existing-keys", "--split-keys-dir=keys")


def key_share(charon: Charon, content: bytes | None) -> Outcome:
    unpack("1.10.3-n3v1-insecure.tar.gz")
    Path("cluster/node1/validator_keys/keystore-insecure-0.json").unlink()
    put("cluster/node1/validator_keys/keystore-insecure-0.json", content)
    return charon("combine", "--cluster-dir=cluster", "--output-dir=out")


def password(charon: Charon, content: bytes | None) -> Outcome:
    put("keys/keystore-0.json", KEYSTORE)
    put("keys/keystore-0.txt", content)
    return charon(*CREATE, "--nodes=4", "--split-existing-keys", "--split-keys-dir=keys")


def identity(charon: Charon, content: bytes | None) -> Outcome:
    put("data/charon-enr-private-key", content)
    return charon("enr", "--data-dir=data")


def enr(charon: Charon, content: bytes | None) -> Outcome:
    put("record", content)
    return charon("show", "record")


def enr_of_operator(charon: Charon, content: bytes | None) -> Outcome:
    text = "./" if content is None else content.decode("utf-8")
    enrs = ",".join([f'"{text.replace(chr(34), chr(34) * 2)}"', *(new_record(bytes([i]) * 32).encode() for i in (2, 3, 4))])
    return charon(
        *("create", "dkg", "--name=x", "--network=hoodi", f"--operator-enrs={enrs}"),
        *(f"--{whose}-addresses=0x000000000000000000000000000000000000dEaD" for whose in ("withdrawal", "fee-recipient")),
    )


def error_line(outcome: Outcome) -> str:
    """The one error among what a command logs and notices."""
    (line,) = (line for line in outcome.stderr.splitlines() if line.startswith("Error: "))
    assert outcome.status == 1
    assert "Traceback" not in outcome.stderr
    return line.removeprefix("Error: ")


NOT_TEXT = (
    "zeros",
    "gzip",
    "zip",
    "UTF-16",
    "UTF-16, big end first",
    "a side file of macOS",
    "a photo",
    "noise",
)  # of an argument
READERS: dict[str, Reader] = {
    "create cluster --definition-file": Reader(DEFINITION, definition, "a definition"),
    "dkg": Reader(DEFINITION, definition_of_ceremony, "a definition"),
    "combine, a lock": Reader(LOCK, lock, "a lock"),
    "run": Reader(LOCK, lock_of_run, "a lock"),
    "verify, a lock": Reader(LOCK, verified("cluster-lock.json"), *SHAPES),  # verify takes each for what it is
    "verify, a definition": Reader(DEFINITION, verified("cluster-definition.json"), *SHAPES, "an ENR", "a private key"),
    "verify, deposit data": Reader(DEPOSITS, verified("deposit-data.json"), *SHAPES, "an ENR", "a private key"),
    "verify, registrations": Reader(
        OVERRIDES, verified("builder_registrations_overrides.json"), *SHAPES, "an ENR", "a private key"
    ),
    "verify, a keystore": Reader(KEYSTORE, verified("keystore-0.json"), *SHAPES, "an ENR", "a private key"),
    "create cluster, a keystore": Reader(KEYSTORE, keystore, "a keystore", "deposit data", "registrations"),  # lists are left out
    "combine, a key share": Reader(KEYSTORE, key_share, "a keystore"),
    "create cluster, a password": Reader(KEYSTORE, password, "cut", "a server's error"),
    "the identity key": Reader(KEY, identity, "a private key", "a private key with 0x", "cut", "a server's error"),
    "show, an ENR": Reader(ENR, enr, "an ENR", "cut", *SHAPES, "a private key"),
    "create dkg, an ENR": Reader(ENR, enr_of_operator, *NOT_TEXT, "an ENR", "cut", "a server's error", "nothing", "white space"),
}
READERS["verify, a lock"].without += ("an ENR", "a private key")
JARGON = re.compile(
    r"Expecting|delimiter|Extra data|Unterminated|codec|char \d|byte \d|position|msgspec|JSON is malformed|Traceback|Error\b(?!:)"
    r"|invalid start byte|base64|json\.|None\b|b'"
)


@pytest.mark.parametrize("reader", READERS)
def test_each_reader_says_what_a_file_is_and_what_to_do(
    charon: Charon, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test a reader, so that what all its cases share is loaded once."""
    wrong = []
    for number, (kind, (make, phrase)) in enumerate(KINDS.items()):
        if kind in READERS[reader].without:
            continue
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.chdir(place)
        outcome = READERS[reader].ask(charon, make(READERS[reader].right))
        try:
            line = error_line(outcome)
            assert phrase in line, f"does not say {phrase!r}"
            assert line.count("; ") >= 1, "has no remedy"
            assert not JARGON.search(line), "speaks jargon"
            assert KEY.decode() not in outcome.stderr + outcome.stdout, "shows the key"
        except AssertionError as error:
            wrong.append(f"{kind}: {str(error).splitlines()[0]}: {outcome.stderr}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("reader", set(READERS) - {"create dkg, an ENR", "verify, a lock", "verify, a definition"})
def test_a_directory_in_the_place_of_a_file_is_named(charon: Charon, reader: str) -> None:
    outcome = READERS[reader].ask(charon, None)
    if reader.startswith("verify"):
        assert "holds no files of a cluster, and no folders of nodes; give the path" in outcome.error
    else:
        assert "is a directory, not a file; " in error_line(outcome)


def test_an_identity_key_with_0x_says_what_to_remove(charon: Charon) -> None:
    error = error_line(identity(charon, b"0x" + KEY))
    assert error == (
        "data/charon-enr-private-key: malformed private key: it starts with 0x (remove that); "
        "the file holds exactly 64 hex digits; restore your backup"
    )


def test_a_list_in_the_place_of_a_keystore_is_named(charon: Charon) -> None:
    outcome = keystore(charon, DEPOSITS)
    assert "Notice: left out: keys/keystore-0.json: it is a list, no keystore" in outcome.stderr
    assert "no keys found" in outcome.error


@pytest.mark.parametrize("part", [10, 40, 41, 42, 43, 100, 130])
def test_a_cut_enr_asks_for_all_of_it(charon: Charon, part: int) -> None:
    assert enr_of_operator(charon, ENR[:part]).error.endswith(
        "(operator 0); ask that operator for `charon enr`, and copy all of it"
    )


# --- a consensus client's ENR where an operator's belongs: it is read, and whoever gave it is warned ------------------

WARNING = (
    "the ENR seems to be one of a consensus client (it has eth2, attnets, syncnets); an operator's is what `charon enr` prints"
)


def test_create_dkg_warns_of_it(charon: Charon) -> None:
    outcome = enr_of_operator(charon, forged(CONSENSUS).encode())
    assert outcome.status == 0, outcome
    assert f"Notice: --operator-enrs: operator 0: {WARNING}" in outcome.stderr.splitlines()
    assert outcome.stderr.count("consensus client") == 1


def test_verify_warns_of_it_in_a_definition_and_alone(charon: Charon) -> None:
    assert enr_of_operator(charon, forged(CONSENSUS).encode()).status == 0
    outcome = charon("verify", ".charon/cluster-definition.json")
    assert outcome.status == 0, outcome
    assert f"  warning .charon/cluster-definition.json: operator 0: {WARNING}" in outcome.stdout.splitlines()
    outcome = charon("verify", forged(CONSENSUS))
    assert outcome.status == 0, outcome
    assert f"  warning ENR: {WARNING}" in outcome.stdout.splitlines()
    assert "consensus client" not in charon("verify", ENR.decode()).stdout


def test_dkg_warns_of_it_where_it_says_that_our_own_key_is_not_among_them(charon: Charon) -> None:
    """Whoever sent the consensus client's ENR instead of his own sees why."""
    charon("create", "enr")
    assert enr_of_operator(charon, forged(CONSENSUS).encode()).status == 0
    outcome = charon("dkg")
    assert f"Notice: .charon/cluster-definition.json: operator 0: {WARNING}" in outcome.stderr.splitlines()
    assert "unknown private key provided" in error_line(outcome)

"""What a refused file is said to be: by how it begins, by where it stops; and never a part of what it holds."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.bounded_json import MAX_DEPTH
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.crypto.faults import KeystoreFault
from charon_actors.crypto.keystore import decode_keystore
from charon_actors.file_kinds import FileKind, form_of, kinds_of, other_than, what_it_is, why_no_json
from tests.charon_actors.cluster.vectors import CLUSTER

DEFINITION = (CLUSTER / "golden/cluster_definition_v1_10_0.json").read_bytes()
FILES = {
    FileKind.LOCK: CLUSTER / "signed-v1_11_0/cluster-lock.json",
    FileKind.DEFINITION: CLUSTER / "golden/cluster_definition_v1_10_0.json",
    FileKind.KEYSTORE: CLUSTER / "keystores/keystore-0.json",
    FileKind.DEPOSITS: CLUSTER / "deposit/deposit-data-goerli-compounding.json",
    FileKind.OVERRIDES: CLUSTER / "cli-files/builder_registrations_overrides.json",
}


def refusal(content: bytes) -> str:
    with pytest.raises(ClusterFault) as fault:
        decode_definition(content)
    return str(fault.value).removeprefix("cluster definition: no valid JSON: ")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"a": 1,}', "it is no JSON from line 1, column [89] on: .*a comma .*is one too many"),
        (b'{"a": [1,]}', "it is no JSON from line 1, column (9|10) on: .*a comma .*is one too many"),
        (b'{"a": 1\n "b": 2}', "it is no JSON from line 2, column 2 on: a comma or a closing bracket is missing before it"),
        (b'{"a" 1}', "it is no JSON from line 1, column 6 on: a colon is missing before it"),
        (b"{'a': 1}", "it is no JSON from line 1, column 2 on: a name in double quotes belongs there, or .*"),
        (b'{"a": 1} {"b": 2}', "it is no JSON from line 1, column 10 on: something follows after the end"),
        (b'{"a": "x\ny"}', "it is no JSON from line 1, column 9 on: a line break or control character inside of a text"),
        (b'{"a": "\\q"}', "it is no JSON from line 1, column 8 on: a backslash that means nothing"),
        (b'{\n "a": 1,\n # mine\n}', "it is no JSON from line 3, column 2 on: a name in double quotes belongs there, or .*"),
        (b"name: x\n", "it is text, but no JSON"),
        ("\u00a0".encode(), "it is text, but no JSON"),
        (b'{"name": "\xfcber"}', r"it has no UTF-8 at line 1, column 11 \(save it as UTF-8 without a byte order mark\)"),
        (b'{"name": "\xc3', r"it ends in the middle, at line 1, column 11 \(it was cut off: copy it again\)"),
        (b'{"a": tru', r"it ends in the middle, at line 1, column 10 \(it was cut off: copy it again\)"),
        (b'{"a": True', "it is no JSON from line 1, column 7 on: a value belongs there, or a comma before it is one too many"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": 1, "A": 2}', "a key stands twice in one object"),
    ],
)
def test_where_json_stops_is_said_in_plain_words(content: bytes, what: str) -> None:
    assert re.fullmatch(what, refusal(content)), refusal(content)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("part", [*range(1, 40), 0.2, 0.5, 0.75, 0.9, 0.999])
def test_a_file_that_ends_anywhere_in_the_middle_is_cut(kind: FileKind, part: float) -> None:
    content = FILES[kind].read_bytes()
    cut = content[: part if isinstance(part, int) else int(len(content) * part)].rstrip()
    with pytest.raises(json.JSONDecodeError) as stopped:
        json.loads(cut)
    line, column = cut.decode().count("\n") + 1, len(cut.decode().split("\n")[-1]) + 1
    assert (
        why_no_json(cut, stopped.value)
        == f"it ends in the middle, at line {line}, column {column} (it was cut off: copy it again)"
    )


@pytest.mark.parametrize("kind", FILES)
def test_each_of_our_files_is_told_from_the_others(kind: FileKind) -> None:
    content = FILES[kind].read_bytes()
    document = json.loads(content)
    assert kinds_of(document)[0] is kind
    assert form_of(content) == ""
    assert other_than(kind, document) == ""
    for wanted in FILES:
        assert (other_than(wanted, document) == "") == (wanted is kind)
    assert kind.value in what_it_is(content)


def test_a_file_with_the_keys_of_two_kinds_is_whichever_is_wanted() -> None:
    """Unknown keys are no fault (01 §2.1): a definition may have one that is called as one of a keystore's."""
    document = json.loads(DEFINITION)
    assert decode_definition(json.dumps({**document, "crypto": 1}).encode()) == decode_definition(DEFINITION)


@pytest.mark.parametrize("document", [{"message": "x", "version": "v1.10.0"}, {}, {"error_code": 1}, [], [1], "x", 5, None, [{}]])
def test_of_anything_else_nothing_is_said(document: Any) -> None:
    assert other_than(FileKind.DEFINITION, document) == ""


def test_what_is_deep_and_compressed_is_compressed() -> None:
    """A zip holds brackets by chance; that it is nested too deeply would send people looking for brackets."""
    assert refusal(b"PK\3\4" + b"[" * 10 * MAX_DEPTH) == "it is a zip archive (unpack it first)"
    assert refusal(b"[" * 10 * MAX_DEPTH) == "cluster definition: nested too deeply"


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300)
def test_any_bytes_end_in_a_phrase_of_ours(content: bytes) -> None:
    for phrase in (form_of(content), what_it_is(content)):
        assert phrase == "" or phrase.isascii()
    said = []
    for read in (decode_definition, decode_keystore):
        try:
            read(content)
        except (ClusterFault, KeystoreFault) as error:
            said.append(str(error))
    assert not [text for text in said for jargon in ("Expecting", "char ", "delimiter", "codec") if jargon in text]


def test_nothing_of_a_secret_is_repeated() -> None:
    for secret in (b"5" * 64, b"0x" + b"5" * 64, b'{"secret": "hunter2', b"hunter2", b"<hunter2>", b"-----BEGIN hunter2"):
        for text in (what_it_is(secret), form_of(secret)):
            assert "hunter2" not in text
            assert "555" not in text


def test_what_is_too_large_is_named_by_its_beginning() -> None:
    with pytest.raises(KeystoreFault, match=r"keystore: longer than 65536 bytes: it is a web page \(download"):
        decode_keystore(b"<!doctype html>" + b" " * 70_000)

"""What an attacker, a broken disk or a wrong mount puts in the place of a file: every parser refuses it, quickly and in little memory."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from charon_actors.cli.options.config_file import ENDINGS, read_config_file
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.deposit import decode_deposit_file
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.key_lock import decode_key_lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.registration import decode_overrides
from charon_actors.crypto.faults import KeystoreFault
from charon_actors.crypto.keystore import decode_keystore, decrypt_keystore
from charon_actors.enr import EnrFault, decode_enr
from charon_actors.errors import UserError
from charon_actors.files.data_directory import load_lock, read_definition, read_key_lock, verified_definition
from charon_actors.files.identity import load_key_file
from tests.charon_actors.cluster.vectors import CLUSTER

MAX_SECONDS = 2.0  # on a busy machine; all take some milliseconds
MAX_MEGABYTES = 400


def _open_keystore(content: bytes) -> object:
    return decrypt_keystore(decode_keystore(content), "password")


JSON_PARSERS: dict[str, tuple[Callable[[bytes], object], type[Exception], bytes]] = {
    "definition": (decode_definition, ClusterFault, (CLUSTER / "golden/cluster_definition_v1_10_0.json").read_bytes()),
    "old definition": (decode_definition, ClusterFault, (CLUSTER / "golden/cluster_definition_v1_1_0.json").read_bytes()),
    "lock": (decode_lock, ClusterFault, (CLUSTER / "golden/cluster_lock_v1_10_0.json").read_bytes()),
    "old lock": (decode_lock, ClusterFault, (CLUSTER / "golden/cluster_lock_v1_6_0.json").read_bytes()),
    "deposit": (decode_deposit_file, ClusterFault, (CLUSTER / "signed-v1_11_0/deposit-data.json").read_bytes()),
    "registration": (
        decode_overrides,
        ClusterFault,
        (CLUSTER / "cli-files/builder_registrations_overrides.json").read_bytes(),
    ),
    "key lock": (decode_key_lock, ClusterFault, b'{"command":"charon run","timestamp":"2026-01-01T00:00:00Z"}'),
    "keystore": (_open_keystore, KeystoreFault, (CLUSTER / "keystores/keystore-insecure-0.json").read_bytes()),
}

HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda intact: b"",
    "nested lists": lambda intact: b"[" * 10_000 + b"]" * 10_000,
    "nested objects": lambda intact: b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "nested value of an unknown key": lambda intact: _with_member(intact, b'"x":' + b"[" * 10_000 + b"]" * 10_000),
    "a number of a million digits": lambda intact: _with_member(intact, b'"x":' + b"9" * 1_000_000),
    "a fraction of a million digits": lambda intact: _with_member(intact, b'"x":0.' + b"9" * 1_000_000),
    "the same key twice": lambda intact: _with_member(intact, b'"x":1,"x":2'),
    "the same key twice, in other letters": lambda intact: _with_member(intact, b'"key":1,"KEY":2'),
    "no UTF-8": lambda intact: _with_member(intact, b'"x":"\xff\xfe"'),
    "UTF-16": lambda intact: intact.decode().encode("utf-16"),
    "a byte order mark": lambda intact: b"\xef\xbb\xbf" + intact,
    "text after the end": lambda intact: intact + b"{}",
    "half of it": lambda intact: intact[: len(intact) // 2],
    "NaN": lambda intact: _with_member(intact, b'"x":NaN'),
    "zeros": lambda intact: bytes(1 << 20),
}


def _with_member(intact: bytes, member: bytes) -> bytes:
    """The file with more in its first object."""
    before, after = intact.split(b"{", 1)
    return before + b"{" + member + b"," + after


@contextmanager
def within_bounds() -> Iterator[None]:
    started, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - started < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MAX_MEGABYTES * 1024


@pytest.mark.parametrize("parser", JSON_PARSERS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_json_is_refused_with_the_documented_fault(parser: str, hostile: str) -> None:
    parse, fault, intact = JSON_PARSERS[parser]
    content = HOSTILE[hostile](intact)
    with within_bounds(), pytest.raises(fault) as caught:
        parse(content)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("parser", JSON_PARSERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_changed_file_ends_in_a_value_or_the_documented_fault(parser: str, data: st.DataObject) -> None:
    parse, fault, intact = JSON_PARSERS[parser]
    start = data.draw(st.integers(0, len(intact)))
    end = data.draw(st.integers(start, min(len(intact), start + 40)))
    content = intact[:start] + data.draw(st.binary(max_size=40) | st.text(max_size=20).map(str.encode)) + intact[end:]
    with suppress(fault):
        parse(content)


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 MB, most of them a hole."""
    path = tmp_path_factory.mktemp("huge") / "file.json"
    with path.open("wb") as file:
        file.write(b'{"version": "v1.10.0", "name": "')
        file.truncate(100_000_000)
    return path


READERS: dict[str, Callable[[Path], Any]] = {
    "definition": lambda path: verified_definition(str(path), read_definition(path), print),
    "lock": lambda path: load_lock(path, print),
    "key file": lambda path: load_key_file(path, print),
    "key lock": read_key_lock,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_100_megabytes_is_refused_without_reading_it(reader: str, huge: Path) -> None:
    with within_bounds(), pytest.raises(UserError, match="larger than"):
        READERS[reader](huge)


@given(st.binary(max_size=200) | st.text("0123456789abcdefABCDEFx \n\t", max_size=140).map(str.encode))
@example(b"\xef\xbb\xbf" + b"1" * 64)
@example(b"0x" + b"1" * 62)
@example(b"f" * 64)
@example(b"0" * 64)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_key_file_of_any_content_is_64_digits_of_a_key_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "charon-enr-private-key"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    told = ""
    try:
        key = load_key_file(path, print)
        assert bytes.fromhex(content.strip().decode()) == key
        assert len(key) == 32
    except UserError as error:
        told = str(error)
    assert len(content.strip()) != 64 or content.strip().decode("ascii", "replace") not in told


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10_000,
        b"{" * 10_000,
        b'{"name": ' + b"[" * 10_000,
        b"name: " + b"9" * 1_000_000,
        b'{"name": "a", "NAME": "b"}',
        b"name: a\nName: b\n",
        b'name = "a"\nname = "b"\n',
        b"name: \xff\n",
        b"\x00" * 1000,
        b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nname: [*b,*b,*b,*b]\n",
        b"name: !!python/object/apply:os.system ['true']\n",
    ],
    ids=lambda content: repr(content[:30]),
)
def test_hostile_configuration_files_are_refused(ending: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"charon.{ending}").write_bytes(content)
    with within_bounds(), pytest.raises(UserError) as caught:
        read_config_file(tmp_path, ["name"])
    assert f"charon.{ending}" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_configuration_file_of_100_megabytes_is_refused(huge: Path, tmp_path: Path) -> None:
    (tmp_path / "charon.yaml").symlink_to(huge)
    with within_bounds(), pytest.raises(UserError, match="larger than"):
        read_config_file(tmp_path, ["name"])


@given(st.text(max_size=200) | st.text(max_size=200).map("enr:".__add__))
def test_any_text_as_an_enr_ends_in_a_record_or_the_fault(text: str) -> None:
    with suppress(EnrFault):
        decode_enr(text)


@pytest.mark.parametrize(
    "text", ["enr:" + "A" * 10_000_000, "enr:" + "-" * 1_000_000, "9" * 10_000_000, "enr:\x00", "enr:" + "é" * 100_000]
)
def test_huge_enrs_are_refused(text: str) -> None:
    with within_bounds(), pytest.raises(EnrFault):
        decode_enr(text)


def test_the_parsers_accept_the_intact_files() -> None:
    """Or else the tests above would show nothing."""
    for name, (parse, _, intact) in JSON_PARSERS.items():
        if name != "keystore":
            parse(intact)
            parse(_with_member(intact, b'"unknown":1'))
    keystore = json.loads(JSON_PARSERS["keystore"][2])
    assert decrypt_keystore(keystore, (CLUSTER / "keystores/keystore-insecure-0.txt").read_text())

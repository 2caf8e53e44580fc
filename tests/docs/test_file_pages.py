"""docs/files: examples are read by the real parsers, tables name what the real encoders write, modes and names are those on disk."""

import importlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.consensus import ParticipationFile
from actors.identity import RECORD_FILE, Endpoint, FetchRecord, Identity, Message
from actors.mailbox import Mailbox, open_actor
from actors.slashing.store import open_store
from charon_actors.cli.commands import run
from charon_actors.cli.main import COMMANDS, main
from charon_actors.cli.options.config_file import MAX_FILE_BYTES as MAX_CONFIG_BYTES
from charon_actors.cli.options.table import CharonCommand, resolve
from charon_actors.cluster.definition import MAX_VALIDATORS
from charon_actors.cluster.definition_json import decode_definition, definition_to_json
from charon_actors.cluster.deposit import decode_deposit_file, deposit_file_name, encode_deposit_file
from charon_actors.cluster.foreign_json import MAX_JSON_BYTES
from charon_actors.cluster.hashes import MAX_DEPOSITS, MAX_OPERATORS
from charon_actors.cluster.key_lock import EDITED_CLUSTER_WAIT_S, FRESH_S, KeyLock, decode_key_lock, encode_key_lock
from charon_actors.cluster.lock_json import decode_lock, lock_to_json
from charon_actors.cluster.registration import decode_overrides, encode_overrides
from charon_actors.cluster.schema import SCHEMAS, Deposits, Schema
from charon_actors.crypto.keystore import (
    MAX_KEYSTORE_BYTES,
    MAX_PBKDF2_ITERATIONS,
    MAX_SCRYPT_MEMORY_BYTES,
    PBKDF2_ITERATIONS,
    decode_keystore,
    decrypt_keystore,
    encrypt_keystore,
)
from charon_actors.enr import decode_enr, new_record
from charon_actors.files.archive import CEREMONY_ARCHIVE, CLUSTER_ARCHIVE, archive_ceremony
from charon_actors.files.data_directory import DEFINITION_FILE, LOCK_FILE, take_key_lock, write_ceremony_artifacts
from charon_actors.files.identity import KEY_FILE, load_key_file, write_identity
from charon_actors.files.keystore_files import MAX_KEYSTORES, VALIDATOR_KEYS, Keystore
from charon_actors.files.staging import STAGING_PREFIX, staging
from charon_actors.qbft.participation import Participation
from supervisors.node_actors import PARTICIPATION_FILE, SLASHING_FILE

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path for path in sorted((ROOT / "docs" / "files").glob("*.md"))}
CLUSTER = ROOT / "tests" / "vectors" / "cluster"
MARKED = re.compile(r"(?:^<!-- (whole|excerpt): ([^\n]*) -->\n)?^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [(name, *match) for name, path in PAGES.items() for match in MARKED.findall(path.read_text("utf-8"))]
ADDRESS = "0x000000000000000000000000000000000000dEaD"


def tables(name: str, first: str) -> list[list[str]]:
    """The rows of all tables of a page whose first column is called `first`."""
    rows: list[list[str]] = []
    for block in re.findall(r"(?:^\|.*\n)+", PAGES[name].read_text("utf-8"), re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in block.splitlines()]
        if lines[0][0].strip() == first:
            rows += lines[2:]
    assert rows, f"{name} has no table of {first}"
    return rows


def fields(name: str) -> dict[str, str]:
    """Field by field of a page's table: its versions. Rows in words are left out."""
    return {row[0].strip("`"): row[-1] for row in tables(name, "field") if row[0].startswith("`")}


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Paths of values that are no objects, as the tables write them: `operators[].enr`. A list of values is one leaf."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path


# --- examples ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "mark", "what", "text"), BLOCKS, ids=[f"{b[0]}-{b[2]}" for b in BLOCKS])
def test_an_example_is_real(page: str, mark: str, what: str, text: str, tmp_path: Path) -> None:
    if mark == "excerpt":
        assert_excerpt(json.loads(text), json.loads((ROOT / what).read_text("utf-8")), page)
        return
    kind, _, vector = what.partition(" ")
    content = text.rstrip("\n").encode()
    if vector:
        assert json.loads(content) == json.loads((ROOT / vector).read_text("utf-8"))
    match kind:
        case "identity-key":
            (tmp_path / KEY_FILE).write_bytes(content)
            assert load_key_file(tmp_path / KEY_FILE, lambda _: None).hex() == content.decode()
        case "enr":
            assert decode_enr(content.decode()).text == new_record(b"\x01" * 32).text, (
                "that of the key on the identity key's page"
            )
        case "key-lock":
            assert encode_key_lock(decode_key_lock(content)) == content
        case "keystore":
            password = (ROOT / vector).with_suffix(".txt").read_text()
            assert decrypt_keystore(decode_keystore(content), password)
        case "overrides":
            assert encode_overrides(decode_overrides(content)) == content
        case "yaml" | "toml" | "json" | "environment":
            assert configured(kind, text, tmp_path) == {
                "beacon-node-endpoints": ("http://127.0.0.1:5052", "http://192.0.2.7:5052"),
                "p2p-tcp-address": ("0.0.0.0:3610",),
                "beacon-node-timeout": 3.0,
                "private-key-file-lock": True,
            }
        case _:
            assert "├─" in text, f"{page}: an example without a mark that says what it is: {text[:60]}"


def assert_excerpt(part: Any, whole: Any, where: str) -> None:
    """Objects may lack keys, lists elements, and texts what `…` stands for; what is there is there."""
    if isinstance(part, dict):
        assert set(part) <= set(whole), where
        assert list(part) == [key for key in whole if key in part], f"{where}: the order of the file"
        for key, value in part.items():
            assert_excerpt(value, whole[key], f"{where}.{key}")
    elif isinstance(part, list):
        for index, value in enumerate(part):
            assert_excerpt(value, whole[index], f"{where}[{index}]")
    elif isinstance(part, str):
        assert re.fullmatch(".+".join(map(re.escape, part.split("…"))), whole), f"{where}: {whole}"
    else:
        assert part == whole, where


def configured(kind: str, text: str, directory: Path) -> dict[str, object]:
    environment = dict(line.split("=", 1) for line in text.splitlines()) if kind == "environment" else {}
    if kind != "environment":
        (directory / f"charon.{kind}").write_text(text)
    values = resolve("charon run", run.FLAGS, {}, environment, directory)
    return {
        "beacon-node-endpoints": values.texts("beacon-node-endpoints"),
        "p2p-tcp-address": values.texts("p2p-tcp-address"),
        "beacon-node-timeout": values.seconds("beacon-node-timeout"),
        "private-key-file-lock": values.switch("private-key-file-lock"),
    }


def test_every_page_has_an_example() -> None:
    assert {page for page, *_ in BLOCKS} == set(PAGES)
    assert sorted(PAGES) == sorted(
        [
            "data-directory",
            "identity-key",
            "enr",
            "cluster-definition",
            "cluster-lock",
            "deposit-data",
            "keystores",
            "builder-registrations",
            "key-lock",
            "configuration",
        ]
    )


# --- fields and versions -------------------------------------------------------------------------------------------------


def versions_text(written_in: list[str]) -> str:
    """`all`, `v1.5+`, `v1.0 to v1.4`, `v1.6, v1.7`: how the tables say in which versions a field is."""
    known = list(SCHEMAS)
    short = [version.removesuffix(".0") for version in written_in]
    assert written_in == known[known.index(written_in[0]) :][: len(written_in)], "an unbroken row of versions"
    if written_in == known:
        return "all"
    if written_in[-1] == known[-1]:
        return f"{short[0]}+"
    return ", ".join(short) if len(short) == 2 else f"{short[0]} to {short[-1]}"


@pytest.mark.parametrize("page", ["cluster-definition", "cluster-lock"])
def test_the_tables_of_definition_and_lock_are_what_each_version_writes(page: str) -> None:
    written: dict[str, list[str]] = {}
    for version in SCHEMAS:
        name = f"{page.replace('-', '_')}_{version.replace('.', '_')}.json"
        content = (CLUSTER / "golden" / name).read_bytes()
        encoded = lock_to_json(decode_lock(content)) if page == "cluster-lock" else definition_to_json(decode_definition(content))
        for leaf in dict.fromkeys(leaf for leaf in leaves(encoded) if not leaf.startswith("cluster_definition.")):
            written.setdefault(leaf, []).append(version)
    assert fields(page) == {leaf: versions_text(versions) for leaf, versions in written.items()}


def test_the_table_of_versions_is_that_of_the_schema() -> None:
    rows = {row[0].strip(): [row[2], *row[3:]] for row in tables("cluster-definition", "version")}
    assert rows == {version: version_row(schema) for version, schema in SCHEMAS.items()}


def version_row(schema: Schema) -> list[str]:
    signers = "no" if not schema.has_operator_signatures else "operators" if schema.signature_pieces == 1 else "operators, Safe"
    deposits = {Deposits.NONE: "none", Deposits.INLINED: "one", Deposits.SINGLE: "one", Deposits.LIST: "several"}
    return [
        "base64" if schema.bytes_are_base64 else "hex",
        signers,
        "yes" if schema.has_creator else "no",
        "each" if schema.has_validator_addresses else "one pair",
        deposits[schema.deposits],
        "yes" if schema.has_registrations else "no",
        "yes" if schema.is_written else "no",
    ]


def test_the_tables_of_the_other_files_are_what_is_written() -> None:
    deposits = decode_deposit_file((CLUSTER / "signed-v1_11_0" / "deposit-data.json").read_bytes())
    encoded = json.loads(encode_deposit_file(deposits.deposits, deposits.network_name, deposits.fork_version))
    assert list(fields("deposit-data")) == list(encoded[0])

    overrides = (CLUSTER / "cli-files" / "builder_registrations_overrides.json").read_bytes()
    assert list(fields("builder-registrations")) == list(dict.fromkeys(leaves(json.loads(overrides))))

    key_lock = json.loads(encode_key_lock(KeyLock("charon run", 1.5, "0x00")))
    assert list(fields("key-lock")) == list(key_lock)

    entropy = bytes  # zeros will do: nothing but names is looked at
    cheap = encrypt_keystore(b"\x01" * 32, "password", entropy, iterations=1)
    hard = json.loads((CLUSTER / "keystores" / "keystore-scrypt.json").read_bytes())
    scrypt = {leaf for leaf in leaves(hard) if leaf.startswith("crypto.kdf.params.")}
    assert set(fields("keystores")) == set(leaves(cheap)) | scrypt

    names = {name.decode() for ip in ("192.0.2.1", "2001:db8::1") for name in new_record(b"\x01" * 32, ip=ip, tcp=1).pairs}
    assert set(fields("enr")) == {*names, "udp"}


# --- the data directory --------------------------------------------------------------------------------------------------


async def test_names_and_modes_of_the_data_directory_are_those_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CHARON_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        on_disk = await everything_that_is_written(tmp_path)
    finally:
        os.umask(before)
    told: dict[str, list[str]] = {}
    for row in tables("data-directory", "path"):
        path = re.match(r"(?:\[)?`([^`]+)`", row[0])
        assert path is not None, row
        told.setdefault(path[1], []).append(row[1])
    foreign = {"builder_registrations_overrides.json"}  # Charon's; nothing here writes it
    assert {path: sorted(modes) for path, modes in told.items() if path not in foreign} == {
        path: sorted(f"{mode:04o}" for mode in modes) for path, modes in on_disk.items()
    }


async def everything_that_is_written(directory: Path) -> dict[str, set[int]]:
    """Path, as the page has it, and modes before the umask, of what commands and programs leave in a data directory."""
    found: dict[str, set[int]] = {}

    def look(folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "")
            name = re.sub(rf"^{re.escape(STAGING_PREFIX)}.*", f"{STAGING_PREFIX}…", name)
            found.setdefault(name, set()).add(path.stat().st_mode & 0o7777)

    terms = ("--withdrawal-addresses", ADDRESS, "--fee-recipient-addresses", ADDRESS, "--network", "hoodi", "--name", "x")
    key = write_identity(directory / "ceremony", b"\x01" * 32)
    enrs = ",".join(new_record(bytes([each]) * 32).encode() for each in (1, 2, 3))
    assert main(["create", "dkg", "--output-dir", "ceremony", "--operator-enrs", enrs, *terms]) == 0
    take_key_lock(key, "charon dkg", "", 0.0)
    deposits = dict.fromkeys((deposit_file_name(32 * 10**9), deposit_file_name(10**9)), b"[]")
    write_ceremony_artifacts(directory / "ceremony", keystores=[Keystore(b"{}", "x")], lock=b"{}", deposit_files=deposits)
    open_store(directory / "ceremony" / SLASHING_FILE, bytes(32)).close()
    participation = ParticipationFile(directory / "ceremony" / PARTICIPATION_FILE, bytes(32))
    await participation.put(Participation())
    participation.close()
    async with open_actor(Mailbox[Message]("identity"), lambda: Identity(b"\x01" * 32, key.parent, Endpoint())) as address:
        await address.ask(FetchRecord())
    with staging(directory / "ceremony"):
        look(directory / "ceremony")
    archive_ceremony(directory / "ceremony")
    look(directory / "ceremony")

    cluster = ("create", "cluster", "--nodes", "3", "--num-validators", "1", "--insecure-keys", *terms)
    assert main([*cluster, "--cluster-dir", "dealt"]) == 0
    for node in sorted((directory / "dealt").iterdir()):
        for path in node.glob("*/keystore-insecure-0.*"):  # of this test only
            path.rename(path.with_name(path.name.replace("insecure-", "")))
        look(node)
    assert main([*cluster, "--cluster-dir", "zipped", "--zipped"]) == 0
    look(directory / "zipped")
    assert {KEY_FILE, LOCK_FILE, DEFINITION_FILE, f"{VALIDATOR_KEYS}/", RECORD_FILE, CEREMONY_ARCHIVE, CLUSTER_ARCHIVE} <= set(
        found
    )
    return found


def test_the_tree_of_the_data_directory_names_files_of_its_table() -> None:
    (tree,) = [text for page, _, _, text in BLOCKS if page == "data-directory"]
    names = [line.rsplit(" ", 1)[-1].rstrip("/") for line in tree.splitlines()[1:]]
    listed = {part for row in tables("data-directory", "path") for part in re.findall(r"`([^`]+)`", row[0])}
    assert set(names) <= {name.rstrip("/").rsplit("/", 1)[-1] for name in listed}


# --- what pages say in words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "text", "holds"),
    [
        ("data-directory", "64 MiB; keystores 64 KiB", (MAX_JSON_BYTES, MAX_KEYSTORE_BYTES) == (64 << 20, 64 << 10)),
        ("cluster-definition", "1 to 65536", MAX_VALIDATORS == 65536),
        ("cluster-definition", "up to 256 operators", MAX_OPERATORS == 256),
        ("cluster-lock", "256 deposits a validator", MAX_DEPOSITS == 256),
        ("keystores", "rounds, 262144; up to 10 million are read", (PBKDF2_ITERATIONS, MAX_PBKDF2_ITERATIONS) == (262144, 10**7)),
        ("keystores", "up to 512 MiB", MAX_SCRYPT_MEMORY_BYTES == 512 << 20),
        ("keystores", "Up to 65536 files", MAX_KEYSTORES == 65536),
        ("key-lock", "at most 5 s old", FRESH_S == 5),
        ("key-lock", "younger than 768 s", EDITED_CLUSTER_WAIT_S == 768),
        ("configuration", "at most 256 KiB", MAX_CONFIG_BYTES == 256 << 10),
    ],
)
def test_a_number_of_the_pages_is_that_of_the_code(page: str, text: str, holds: bool) -> None:
    assert text in PAGES[page].read_text("utf-8")
    assert holds


def commands() -> dict[str, CharonCommand]:
    found = {}
    for path, lazy in COMMANDS.items():
        module, attribute = lazy.target.split(":")
        found[path] = getattr(importlib.import_module(module), attribute)
    return found


FOREIGN_FLAGS = {"--env-file", "--help", "--flag"}  # of Docker, of all commands, of an example
DOCUMENTS = [*PAGES.values(), ROOT / "docs" / "errors.toml"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_and_flags_that_a_page_names_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    flags = {f"--{name}" for command in commands().values() for flag in command.flags for name in (flag.name, *flag.aliases)}
    assert set(re.findall(r"--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![a-z0-9…-])", text)) - flags <= FOREIGN_FLAGS
    for words in re.findall(r"`charon ((?:[a-z]+ ?)+)", text):
        names = words.split()
        assert any(" ".join(names[:length]) in COMMANDS for length in (1, 2)), words


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_is_checked_what_to_do_and_what_never_to_do(name: str) -> None:
    text = PAGES[name].read_text("utf-8")
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert "Never" in headings
    assert any(heading.startswith("What is checked") for heading in headings)
    assert any(heading.startswith(("When ", "Back up")) for heading in headings)
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= 140


@pytest.mark.parametrize("page", [*PAGES.values(), ROOT / "docs" / "errors.md", ROOT / "README.md"], ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)", linked.read_text("utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in titles], target

"""`--zipped`: one archive with everything, or everything as it was."""

import os
import resource
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from charon_actors.cli.commands.ceremony_results import Results
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.errors import UserError
from charon_actors.files import archive
from charon_actors.files.archive import archive_ceremony, pack
from charon_actors.files.data_directory import load_lock, write_ceremony_artifacts
from charon_actors.files.keystore_files import Keystore
from charon_actors.files.staging import staging
from tests.charon_actors.dkg.cluster import definition, prepare_directory
from tests.cli.conftest import Charon
from tests.cli.loopback import Reply, loopback

VECTORS = Path(__file__).parent.parent / "vectors"
ADDRESS = "0x000000000000000000000000000000000000dEaD"
_CREATE = ("create", "cluster", "--name=test", "--network=hoodi", "--insecure-keys", "--cluster-dir=out", "--num-validators=1")
CREATE = (*_CREATE, f"--withdrawal-addresses={ADDRESS}", f"--fee-recipient-addresses={ADDRESS}")


def entries(path: Path) -> list[tuple[str, int, bool, str, int]]:
    with tarfile.open(path) as tar:
        return [(member.name, member.mode, member.isreg(), member.uname, member.uid) for member in tar.getmembers()]


def tree(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# --- create cluster --------------------------------------------------------------------------------------------------


def test_a_cluster_archive_is_like_the_one_that_charon_writes(charon: Charon) -> None:
    outcome = charon(*CREATE, "--nodes=4", "--zipped")
    assert outcome.status == 0, outcome
    path = Path("out/cluster.tar.gz")
    assert list(Path("out").iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert entries(path) == entries(VECTORS / "live/clusters/1.10.3-n4v1-zipped-by-charon.tar.gz")
    assert outcome.stdout.startswith(
        "Created charon cluster:\n --split-existing-keys=false\n\nout/cluster.tar.gz, with all of:\n"
    )
    with tarfile.open(path) as tar:
        tar.extractall("back", filter="data")
    locks = [load_lock(Path(f"back/node{node}/cluster-lock.json"), print) for node in range(4)]
    assert len({lock.lock_hash for lock in locks}) == 1


def test_an_archive_in_the_way_is_refused_and_kept(charon: Charon) -> None:
    Path("out").mkdir()
    Path("out/cluster.tar.gz").write_bytes(b"mine")
    assert charon(*CREATE, "--nodes=3", "--zipped").error.startswith("out/cluster.tar.gz: already exists")
    assert tree(Path("out")) == {"cluster.tar.gz": b"mine"}
    assert charon(*CREATE, "--nodes=3").status == 0  # without --zipped it is not in the way


def test_originals_stand_nowhere_but_in_the_staging_directory(charon: Charon, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def look(*arguments: object) -> None:
        seen.append(sorted(path.name for path in Path("out").iterdir()))
        raise OSError(28, "No space left on device", "out/cluster.tar.gz")

    monkeypatch.setattr(archive, "_write_archive", look)
    assert charon(*CREATE, "--nodes=3", "--zipped").error.startswith("out/cluster.tar.gz: cannot write (No space left on device)")
    ((name,),) = seen
    assert name.startswith(".charon-staging-")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("zipped", [[], ["--zipped"]])
def test_an_archive_has_no_keystores_when_key_managers_have_them(charon: Charon, zipped: list[str]) -> None:
    with loopback() as server:
        addresses = f"--keymanager-addresses={server.url},{server.url},{server.url}"
        outcome = charon(*CREATE, "--nodes=3", addresses, "--keymanager-auth-tokens=a,b,c", *zipped)
    assert outcome.status == 0
    names = [name for name, *_ in entries(Path("out/cluster.tar.gz"))] if zipped else list(tree(Path("out")))
    assert len(names) == 3 * 4
    assert not any("validator_keys" in name for name in names)


def test_packing_keeps_modes_and_long_names(tmp_path: Path) -> None:
    long_name = "/".join(["a" * 100] * 3)
    with staging(tmp_path) as stage:
        stage.write("x/secret", b"1", 0o400)
        stage.write(f"x/{long_name}", b"", 0o444)
        stage.write("y", b"2" * 100_000, 0o600)
        pack(stage, "all.tar.gz")
        assert stage.names == ("all.tar.gz",)
        stage.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["all.tar.gz"]
    assert [(name, mode) for name, mode, *_ in entries(tmp_path / "all.tar.gz")] == [
        (f"x/{long_name}", 0o444),
        ("x/secret", 0o400),
        ("y", 0o600),
    ]


# --- dkg -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """What a ceremony leaves, and what else may be there."""
    made = prepare_directory(tmp_path / ".charon", 0, definition(3, 2, 1))
    keystores = [Keystore(b"{}", f"password {index}") for index in range(2)]
    files = {"deposit-data.json": b"[1]", "deposit-data-1eth.json": b"[2]"}
    write_ceremony_artifacts(made, keystores=keystores, lock=b"{}", deposit_files=files)
    (made / "charon-enr-private-key.lock").write_text("{}")
    (made / "my notes").write_text("mine")
    return made


OF_A_CEREMONY = [
    ("charon-enr-private-key", 0o600),
    ("cluster-definition.json", 0o644),
    ("cluster-lock.json", 0o444),
    ("deposit-data-1eth.json", 0o444),
    ("deposit-data.json", 0o444),
    ("validator_keys/keystore-0.json", 0o444),
    ("validator_keys/keystore-0.txt", 0o400),
    ("validator_keys/keystore-1.json", 0o444),
    ("validator_keys/keystore-1.txt", 0o400),
]


def test_a_ceremonys_archive_holds_everything_and_only_the_key_lock_and_foreign_files_stay(directory: Path) -> None:
    (directory / "cluster-definition.json").chmod(0o644)
    before = tree(directory)
    path = archive_ceremony(directory)
    assert sorted(tree(directory)) == ["charon-enr-private-key.lock", "dkg.tar.gz", "my notes"]
    assert sorted(found.name for found in directory.iterdir()) == sorted(tree(directory))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [(name, mode) for name, mode, *_ in entries(path)] == OF_A_CEREMONY
    with tarfile.open(path) as tar:
        tar.extractall(directory, filter="data")
    assert {name: content for name, content in tree(directory).items() if name != "dkg.tar.gz"} == before


def test_a_key_that_is_a_link_is_archived_and_the_original_stays(directory: Path, tmp_path: Path) -> None:
    key = directory / "charon-enr-private-key"
    content = key.read_bytes()
    key.rename(tmp_path / "mounted")
    key.symlink_to(tmp_path / "mounted")
    path = archive_ceremony(directory)
    with tarfile.open(path) as tar:
        file = tar.extractfile("charon-enr-private-key")
        assert file is not None
        assert file.read() == content
    assert not key.is_symlink()
    assert (tmp_path / "mounted").read_bytes() == content


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond it fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ["pipe in the keys", "archive in the way", "dangling link", "disk full", "rename fails"])
def test_when_there_can_be_no_archive_everything_stays(directory: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "pipe in the keys":
        os.mkfifo(directory / "validator_keys/pipe")
    elif what == "archive in the way":
        (directory / "dkg.tar.gz").write_bytes(b"older keys")
    elif what == "dangling link":
        (directory / "deposit-data-9eth.json").symlink_to("nowhere")
    elif what == "rename fails":
        real = Path.rename

        def fail_at_the_archive(self: Path, target: Path) -> Path:
            if target.name == "dkg.tar.gz":
                raise OSError(5, "Input/output error", str(target))
            return real(self, target)

        monkeypatch.setattr(Path, "rename", fail_at_the_archive)
    else:
        (directory / "deposit-data-9eth.json").write_bytes(os.urandom(200_000))
    names = sorted(path.name for path in directory.rglob("*"))
    before = tree(directory)
    with pytest.raises(UserError), largest_file(100_000 if what == "disk full" else resource.RLIM_INFINITY):
        archive_ceremony(directory)
    assert tree(directory) == before
    assert sorted(path.name for path in directory.rglob("*")) == names


async def test_the_end_of_a_ceremony_makes_the_archive_after_publishing(directory: Path) -> None:
    from charon_actors.cli.services.http_request import service_of
    from charon_actors.cli.services.obol_api import ObolApi

    lock = decode_lock((VECTORS / "cluster/cli-files/cluster-lock.json").read_bytes())
    is_there_while_publishing: list[bool] = []

    def look(asked: object) -> Reply:
        is_there_while_publishing.append((directory / "cluster-lock.json").exists())
        return Reply(400)

    with loopback(look) as server:
        api = ObolApi(service_of(server.url, "--publish-address"), 5.0)
        await Results(directory, None, api, is_zipped=True).finish(lock)
    assert is_there_while_publishing == [True]
    assert (directory / "dkg.tar.gz").exists()
    assert not (directory / "cluster-lock.json").exists()


def test_dkg_refuses_an_archive_of_an_earlier_ceremony(charon: Charon, tmp_path: Path) -> None:
    made = prepare_directory(tmp_path / "node", 0, definition(3, 2, 1))
    (made / "dkg.tar.gz").write_bytes(b"older keys")
    arguments = [f"--data-dir={made}", f"--definition-file={made}/cluster-definition.json", "--log-level=error"]
    assert "dkg.tar.gz: data directory not clean, cannot continue" in charon("dkg", *arguments, "--zipped").error

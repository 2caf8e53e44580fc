"""What operators really do to the command line: pipes, links and long names for files, full disks, kill -9, help at 80 columns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from charon_actors.cli.inputs.custom_network import CAPELLA_FLAG
from charon_actors.cli.main import COMMANDS, root
from charon_actors.errors import UserError
from charon_actors.files.data_directory import check_ceremony_directory
from charon_actors.files.identity import KEY_FILE, load_key_file, write_identity
from charon_actors.files.staging import staging

from .conftest import Charon

KEY = bytes(31) + b"\x01"
ADDRESS = "0x000000000000000000000000000000000000dEaD"
CLUSTER = ["create", "cluster", "--name=t", "--nodes=3", "--num-validators=1", "--network=hoodi", "--insecure-keys"]
CLUSTER += [f"--withdrawal-addresses={ADDRESS}", f"--fee-recipient-addresses={ADDRESS}"]


# --- files that are none ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(10)
def test_a_pipe_or_a_device_for_a_key_is_refused_at_once(charon: Charon) -> None:
    Path("d").mkdir()
    key = Path("d", KEY_FILE)
    os.mkfifo(key)
    assert "is a pipe or a device" in charon("enr", "--data-dir=d").error
    key.unlink()
    key.symlink_to("/dev/zero")
    assert "is a pipe or a device" in charon("enr", "--data-dir=d").error
    key.unlink()
    key.mkdir()
    assert "is a directory, not a file" in charon("enr", "--data-dir=d").error


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "loop/x"])
@pytest.mark.parametrize("command", [["create", "enr", "--data-dir"], [*CLUSTER, "--cluster-dir"]])
def test_names_that_no_file_can_have_are_one_line_with_its_remedy(charon: Charon, command: list[str], name: str) -> None:
    Path("loop").symlink_to("loop")
    assert charon(*command, name).error.endswith(("permissions", "free space"))
    assert os.listdir() == ["loop"]


def test_an_empty_path_does_not_mean_the_working_directory(charon: Charon) -> None:
    assert charon("create", "enr", "--data-dir", "").error.startswith("--data-dir: is empty")
    assert os.listdir() == []


@pytest.mark.parametrize("kind", ["directory", "dangling link", "pipe"])
def test_a_configuration_that_is_no_file_is_not_ignored(charon: Charon, kind: str) -> None:
    path = Path("charon.yaml")
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("none")
    assert charon("enr").error.startswith("charon.yaml: read config: is no file")


def test_a_working_directory_that_is_gone_is_one_line(charon: Charon) -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path.cwd().rmdir()
    assert charon("version").error.startswith("working directory: is gone")


def test_an_empty_list_does_not_satisfy_a_required_flag(charon: Charon) -> None:
    assert 'required flag(s) "beacon-node-endpoints" not set' in charon("run", "--beacon-node-endpoints", "").error


# --- output ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_a_full_or_closed_output_is_no_traceback(tmp_path: Path, redirection: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m charon_actors.cli.main version {redirection}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = "Error: output: No space left on device; check the path, its permissions and the free space\n"
    assert (done.returncode, done.stderr) == ((1, expected) if "full" in redirection else (0, ""))


# --- a kill in the middle --------------------------------------------------------------------------------------------


def test_what_a_kill_left_is_named_by_the_next_run_and_never_deleted(charon: Charon) -> None:
    left = Path(".charon/.charon-staging-1/validator_keys/keystore-0.txt")
    left.parent.mkdir(parents=True)
    left.write_text("secret")
    error = charon("create", "enr").error
    assert error.startswith(".charon/.charon-staging-1: another charon is writing here, or was killed while it did; if none runs")
    assert "secret" not in error
    assert os.listdir(".charon") == [".charon-staging-1"]
    assert left.read_text() == "secret"
    Path(".charon").rename("here")
    assert "here/.charon-staging-1: another charon" in charon(*CLUSTER, "--cluster-dir", "here").error


def test_what_a_kill_left_beside_the_key_is_noticed_by_its_readers_and_stops_a_ceremony(tmp_path: Path) -> None:
    write_identity(tmp_path, KEY)
    (tmp_path / ".charon-staging-7").mkdir()
    said: list[str] = []
    assert load_key_file(tmp_path / KEY_FILE, said.append) == KEY
    assert len(said) == 1
    assert "may hold keys" in said[0]
    with pytest.raises(UserError, match=r"not clean, cannot continue: \.charon-staging-7"):
        check_ceremony_directory(tmp_path)


def test_two_writers_never_share_or_remove_each_others_staging_directory(tmp_path: Path) -> None:
    with staging(tmp_path) as first:
        first.write("a", b"1", 0o400)
        with pytest.raises(UserError, match="another charon is writing here"), staging(tmp_path):
            pass
        first.commit()
    assert (tmp_path / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_an_interrupt_right_after_a_rename_takes_that_one_back_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.rename

    def rename_then_interrupt(self: Path, target: Path) -> Path:
        moved = real(self, target)
        if target.parent == tmp_path:
            raise KeyboardInterrupt
        return moved

    with pytest.raises(KeyboardInterrupt), staging(tmp_path) as stage:  # noqa: PT012
        stage.write("a", b"1", 0o400)
        monkeypatch.setattr(Path, "rename", rename_then_interrupt)
        stage.commit()
    assert os.listdir(tmp_path) == []


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "create", *COMMANDS])
def test_help_fits_80_columns_and_ends_with_an_example_to_paste(charon: Charon, path: str) -> None:
    shown = charon(*path.split(), "--help", COLUMNS="80").stdout
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "<bool>" not in shown  # a switch takes no separate word
    example = shown.partition("Example:\n")[2].partition("\n\n")[0]
    words = example.replace("\\\n", " ").split()
    assert words[: 1 + len(path.split())] == ["charon", *path.split()]
    command = root
    for word in words[1:]:
        found = command.get_command(None, word) if hasattr(command, "get_command") else None  # type: ignore[arg-type]
        command = found or command  # type: ignore[assignment]
    known = {f"--{flag.name}" for flag in command.flags}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= known


def test_a_slip_of_the_finger_is_answered_with_the_command_that_was_meant(charon: Charon) -> None:
    assert "did you mean `create`? see `charon --help`" in charon("creat", "enr").error


@pytest.mark.parametrize("name", ["run", "dkg", "create dkg", "create cluster"])
def test_flags_without_effect_are_hidden_and_say_so_when_given(charon: Charon, name: str) -> None:
    shown = charon(*name.split(), "--help").stdout
    for flag in ("p2p-udp-address", "p2p-allowlist", *(["execution-client-rpc-endpoint"] if name == "create dkg" else [])):
        assert flag not in shown
        outcome = charon(*name.split(), f"--{flag}=x")
        if "unknown flag" not in outcome.stderr:
            assert f"Notice: --{flag} has no effect" in outcome.stderr
    assert CAPELLA_FLAG not in shown or name == "run"


def test_the_live_table_of_a_simnet_fits_80_columns_and_cuts_nothing() -> None:
    from rich.console import Console

    from charon_actors.cli.commands.simnet import _table
    from supervisors.simnet import NodeView, SimnetView

    missed = "123/proposer: no threshold of validator clients asked for the block in time"
    node = NodeView(3, "reliable-factory", ready_s=12.5, peers=3, rtt_ms=123.4, failures=[missed])
    node.expected["attester"], node.succeeded["attester"] = 1234, 1233
    node.latencies_s["attester"] = [0.333]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(_table(SimnetView([node], slot=124, counted=124)))
    shown = capture.get()
    assert "…" not in shown
    assert all(
        part in shown for part in ("proposer", "reliable-factory", "123.4 ms", "1233/1234", "333 ms", "node 3 last missed")
    )
    assert all(len(line) <= 80 for line in shown.splitlines())

"""A node's configuration from its directory, as an embedding program asks for it."""

from pathlib import Path
from typing import Any

import pytest
import trio

from actors.mesh import Mesh
from charon_actors.cluster.lock_json import encode_lock
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network
from supervisors.node import open_node
from supervisors.node_files import config_from
from supervisors.simnet import FORK_VERSION, SimnetSettings, make_cluster

URL = "http://127.0.0.1:5052"
LAB = Network("lab", 0, FORK_VERSION, 0, bytes([3]) + FORK_VERSION[1:], 12.0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of the second operator of a custom network's cluster."""
    dealt, keys = make_cluster(SimnetSettings(Path(), nodes=3, validators=1, seed=3))
    folder = tmp_path / ".charon"
    folder.mkdir()
    (folder / "cluster-lock.json").write_bytes(encode_lock(dealt.lock))
    (folder / "charon-enr-private-key").write_text(keys[1].hex())
    (folder / "charon-enr-private-key").chmod(0o600)
    return folder


def test_key_and_lock_say_who_we_are_and_where(directory: Path) -> None:
    config = config_from(directory, beacon_nodes=[URL, "127.0.0.1:5053"], networks=[LAB], nickname="anna")
    assert (config.own_index, config.network, config.state_dir, config.nickname) == (1, LAB, directory, "anna")
    assert [node.base for node in config.beacon_nodes] == [URL, "http://127.0.0.1:5053"]
    assert sorted(path.name for path in directory.iterdir()) == ["charon-enr-private-key", "cluster-lock.json"]


def test_one_url_is_one_beacon_node(directory: Path) -> None:
    assert [node.base for node in config_from(directory, beacon_nodes=URL, networks=[LAB]).beacon_nodes] == [URL]


def test_the_state_may_be_elsewhere(directory: Path, tmp_path: Path) -> None:
    config = config_from(str(directory), beacon_nodes=URL, networks=[LAB], state_dir=str(tmp_path / "state"))
    assert config.state_dir == tmp_path / "state"


@pytest.mark.parametrize("nothing", [[], ()])
def test_no_beacon_node_is_an_error(directory: Path, nothing: Any) -> None:
    with pytest.raises(UserError, match="no beacon node is given"):
        config_from(directory, beacon_nodes=nothing, networks=[LAB])


def test_an_unknown_network_is_an_error_that_names_the_lock(directory: Path) -> None:
    with pytest.raises(UserError, match=r"cluster-lock\.json: no network with fork version"):
        config_from(directory, beacon_nodes=URL)


def test_a_missing_file_is_an_error_that_names_it(directory: Path) -> None:
    (directory / "charon-enr-private-key").unlink()
    with pytest.raises(UserError, match="charon-enr-private-key"):
        config_from(directory, beacon_nodes=URL, networks=[LAB])


@pytest.mark.parametrize("setting", ["validator_api_adress", "own_index", "lock", "private_key", "network"])
def test_a_setting_that_is_unknown_or_stands_in_the_files_is_refused(directory: Path, setting: str) -> None:
    with pytest.raises(TypeError, match=setting):
        config_from(directory, beacon_nodes=URL, networks=[LAB], **{setting: 0})  # type: ignore[arg-type]


async def test_a_node_that_only_relays_can_reach_waits_for_one_and_says_which_failed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Mesh.wait_for_relays
    monkeypatch.setattr(Mesh, "wait_for_relays", lambda mesh: really(mesh, timeout_s=0.5))
    config = config_from(
        directory,
        beacon_nodes="http://127.0.0.1:1",
        networks=[LAB],
        relays=("http://127.0.0.1:1",),
        validator_api_address="127.0.0.1:0",
        monitoring_address="127.0.0.1:0",
    )
    with trio.fail_after(20), pytest.raises(UserError, match=r"--p2p-relays: no relay could be found .*http://127\.0\.0\.1:1: "):
        async with open_node(config):
            await trio.sleep_forever()

"""`charon dkg`: take part in a key generation ceremony. Source: specification 04 §1, §2; 09 §3.6.

All checks come before anything is bound, dialed or written, and the key's lock file is taken last: a mistake in a flag or a file
does not block the next attempt for the 5 s of the lock file's rule.

The ceremony has succeeded with the line `lock hash: …`. A first SIGINT or SIGTERM after that ends only the shutdown delay: what becomes
of the results (`ceremony_results.py`) is done before the command ends, with its status.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from charon_actors.cli.door import notice, run_program
from charon_actors.cli.inputs.custom_network import custom_networks
from charon_actors.cli.log import set_up_log
from charon_actors.cli.options import flags
from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.values import Kind
from charon_actors.errors import UserError
from charon_actors.profile import Profile

if TYPE_CHECKING:
    from charon_actors.cli.commands.ceremony_results import Results
    from charon_actors.cluster.definition import Definition
    from charon_actors.cluster.lock import Lock
    from charon_actors.cluster.peers import Peer
    from charon_actors.eth2.networks import Network
    from supervisors.ceremony import CeremonyConfig

MAX_NICKNAME_BYTES: Final = 32
DEFINITION_V1_11: Final = "v1.11.0"  # no v1.10 node can read it (04 §0)

FLAGS: Final = (
    flags.DATA_DIR,
    Flag(
        "definition-file",
        Kind.TEXT,
        ".charon/cluster-definition.json",
        "File or URL of the cluster definition, the same for all operators",
    ),
    flags.NO_VERIFY,
    flags.EXECUTION_CLIENT,
    Flag("keymanager-address", Kind.TEXT, "", "URL of a key manager: it gets the keystores, not the disk"),
    Flag("keymanager-auth-token", Kind.TEXT, "", "Access token of the key manager", secret=True),
    Flag("publish", Kind.SWITCH, False, "Publish the cluster lock to the Obol API"),
    flags.PUBLISH_ADDRESS,
    flags.PUBLISH_TIMEOUT,
    Flag("zipped", Kind.SWITCH, False, "Put identity key, definition and results into one archive, dkg.tar.gz, and nowhere else"),
    Flag("timeout", Kind.DURATION, 120.0, "Longest silence of a peer, and longest wait for its signatures; no overall limit"),
    Flag("shutdown-delay", Kind.DURATION, 5.0, "Stay reachable that long after finishing, so that slower peers can finish"),
    Flag("nickname", Kind.TEXT, "", "Name that peers see, up to 32 bytes"),
    Flag(
        "profile",
        Kind.TEXT,
        "",
        "Charon release to speak like, v1.10 or v1.11; empty: what the definition needs",
        words=flags.words("", *(profile.minor for profile in Profile)),
    ),
    *flags.p2p(flags.CEREMONY_RELAYS),
    *flags.TESTNET,
    *flags.LOG,
)


def run(values: Values) -> int:
    """Check everything, then run the ceremony."""
    with _without_decoration():
        import structlog

        import supervisors.ceremony  # noqa: F401

    set_up_log(values.text("log-format"), values.text("log-level"), values.text("log-color"), values.text("log-output-path"))
    log = structlog.get_logger(topic="dkg")
    log.info("Parsed config", **values.for_log())
    config, results = ceremony_config(values)
    finished: list[Lock] = []

    def on_finished(lock: "Lock") -> None:
        finished.append(lock)
        log.info("Successfully completed DKG ceremony", lock_hash="0x" + lock.lock_hash.hex())
        with suppress(OSError):  # nobody reads it; that is no reason to leave the other operators waiting
            print(f"lock hash: 0x{lock.lock_hash.hex()}")
            print("Compare it with all other operators, and deposit only when every one of them has the same.", flush=True)

    async def program() -> None:
        import trio

        from charon_actors.cluster.peers import peers_of
        from supervisors.ceremony import run_ceremony

        definition = config.definition
        log.info(
            "Starting the ceremony",
            definition_hash="0x" + definition.definition_hash.hex(),
            operators=len(definition.operators),
            threshold=definition.threshold,
            validators=definition.num_validators,
            peer=peers_of(definition)[config.own_index].name,
            operator=config.own_index,
            release=config.profile.minor,
        )
        try:
            await run_ceremony(config, on_finished=on_finished)
        finally:
            with trio.CancelScope(shield=True):
                for lock in finished:
                    await results.finish(lock)

    status = run_program(program, stopped_status=1)
    return 0 if finished else status


@contextmanager
def _without_decoration() -> Iterator[None]:
    """structlog and httpx load rich and pygments when they find them, for output that we don't use: 6 MB and 0.1 s. Not here."""
    hidden = [name for name in ("rich", "pygments") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # how an import is made to fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def ceremony_config(values: Values) -> "tuple[CeremonyConfig, Results]":
    """The checked configuration, and what is done with the results; takes the key's lock file.

    Raises: UserError for whatever is missing or doesn't fit.
    """
    from actors.dkg import CeremonyOptions
    from charon_actors.cli.commands.ceremony_results import results_of
    from charon_actors.cli.inputs.definition_file import supplied_definition
    from charon_actors.cli.services.execution_client import execution_client
    from charon_actors.cluster.peers import of_consensus_clients
    from charon_actors.dkg.ceremony import check_ceremony_definition
    from charon_actors.files.data_directory import check_ceremony_directory, take_key_lock
    from charon_actors.files.identity import KEY_FILE
    from supervisors.ceremony import COMMAND, CeremonyConfig

    _check_limits(values)
    networks = custom_networks(values)
    data_dir, is_verified = values.path("data-dir"), not values.switch("no-verify")
    key_path = data_dir / KEY_FILE
    key = _own_key(key_path)
    client = execution_client(values, is_verified=is_verified)
    where, definition = supplied_definition(
        values, is_verified=is_verified, can_bypass=True, networks_extra=networks, contract=client
    )
    check_ceremony_definition(where, definition)
    results = results_of(values)
    check_ceremony_directory(data_dir)
    network = _network_of(definition, where, networks)
    for warning in of_consensus_clients(definition.operators):
        notice(f"{where}: {warning}")
    own = _own_operator(definition, where, key)
    config = CeremonyConfig(
        definition=definition,
        private_key=key,
        own_index=own.index,
        network=network,
        options=CeremonyOptions(
            data_directory=data_dir,
            timeout_s=values.seconds("timeout"),
            shutdown_delay_s=values.seconds("shutdown-delay"),
            is_verified=is_verified,
            networks_extra=networks,
            contract=None if client is None else client.remembers,  # it was asked about this definition just now
            deliver_keystores=None if results.manager is None else results.deliver,
        ),
        p2p_tcp_addresses=values.texts("p2p-tcp-address"),
        p2p_external_ip=values.text("p2p-external-ip"),
        p2p_external_hostname=values.text("p2p-external-hostname"),
        relays=values.texts("p2p-relays"),
        use_listen_port=not values.switch("p2p-disable-reuseport"),
        key_lock=take_key_lock(key_path, COMMAND, "", time.time()),
        profile=_profile(values, definition.version),
        nickname=values.text("nickname"),
    )
    return config, results


def _check_limits(values: Values) -> None:
    if len(values.text("nickname").encode()) > MAX_NICKNAME_BYTES:
        raise UserError(values.where("nickname"), f"is longer than {MAX_NICKNAME_BYTES} bytes", "choose a shorter one")
    for name in ("timeout", "publish-timeout", "shutdown-delay"):
        if values.seconds(name) < 0 or (values.seconds(name) == 0 and name != "shutdown-delay"):
            raise UserError(values.where(name), "is not a positive duration", "write for example 2m")


def _own_key(path: Path) -> bytes:
    from charon_actors.files.identity import load_key_file

    if not path.is_file():
        what = "private key file does not exist, please check the path"
        raise UserError(str(path), what, "run `charon create enr` first")
    return load_key_file(path, notice)


def _network_of(definition: "Definition", where: str, networks: "tuple[Network, ...]") -> "Network":
    from charon_actors.eth2.networks import network_by_fork_version

    network = network_by_fork_version(definition.fork_version, networks)
    if network is None:
        version = "0x" + definition.fork_version.hex()
        raise UserError(where, f"invalid fork version: no network has {version}", "give the --testnet flags")
    return network


def _own_operator(definition: "Definition", where: str, key: bytes) -> "Peer":
    from charon_actors.cluster.faults import ClusterFault
    from charon_actors.cluster.peers import own_peer, peers_of
    from charon_actors.crypto import k1_public_key

    try:
        return own_peer(peers_of(definition), k1_public_key(key))
    except ClusterFault as fault:
        remedy = "use the key whose ENR you gave to the operator who made the definition"
        raise UserError(where, str(fault), remedy) from fault


def _profile(values: Values, definition_version: str) -> Profile:
    text = values.text("profile")
    if not text:
        return Profile.V1_11 if definition_version == DEFINITION_V1_11 else Profile.V1_10
    return next(profile for profile in Profile if profile.minor == text)


command = charon_command(
    "dkg",
    "Take part in a key generation ceremony. All operators run it at the same time, with the same definition.",
    run,
    FLAGS,
    example="charon dkg --definition-file .charon/cluster-definition.json --p2p-tcp-address 0.0.0.0:3610",
)

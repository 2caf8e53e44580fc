"""`charon run`: the node between a beacon node and a validator client. Source: specification 09 §3.2, §4, §6."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from charon_actors.cli.door import notice, run_program
from charon_actors.cli.inputs.custom_network import custom_networks
from charon_actors.cli.log import set_up_log
from charon_actors.cli.options import flags
from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.unbuilt import OVERRIDES, OVERRIDES_FILE, UNBUILT
from charon_actors.cli.options.values import Blank, Kind
from charon_actors.errors import UserError

if TYPE_CHECKING:
    from actors.validator_api import Tls
    from charon_actors.cluster.lock import Lock
    from charon_actors.eth2.networks import Network

MAX_NICKNAME_BYTES: Final = 32

FLAGS: Final = (
    Flag(
        "beacon-node-endpoints",
        Kind.TEXTS,
        (),
        "URLs of the beacon nodes; all are asked, the first good answer wins",
        required=True,
        aliases=("beacon-node-endpoint",),
        blank=Blank.DROPPED,
    ),
    Flag(
        "fallback-beacon-node-endpoints",
        Kind.TEXTS,
        (),
        "URLs of beacon nodes that are asked when all others have failed",
        blank=Blank.DROPPED,
    ),
    Flag("beacon-node-timeout", Kind.DURATION, 2.0, "Time limit of a request to a beacon node"),
    Flag("beacon-node-submit-timeout", Kind.DURATION, 2.0, "Time limit of a submission to a beacon node"),
    Flag(
        "beacon-node-headers",
        Kind.TEXTS,
        (),
        "HTTP headers for all beacon nodes, name=value",
        secret=True,
        blank=Blank.DROPPED,
    ),
    Flag("validator-api-address", Kind.TEXT, "127.0.0.1:3600", "ip:port for validator clients"),
    Flag("vc-tls-cert-file", Kind.TEXT, "", "Certificate (PEM) with which validator clients are answered over TLS"),
    Flag("vc-tls-key-file", Kind.TEXT, "", "Private key (PEM) of that certificate"),
    Flag("monitoring-address", Kind.TEXT, "127.0.0.1:3620", "ip:port of /metrics, /livez and /readyz"),
    Flag("data-dir", Kind.TEXT, "", "Directory of the private key and the lock, unless their own flags say where they are"),
    flags.PRIVATE_KEY_FILE,
    flags.LOCK_FILE,
    Flag(
        "state-dir",
        Kind.TEXT,
        "",
        "Directory of the slashing record and the node record, on a disk that stays; empty: beside the lock if that can be written",
    ),
    flags.NO_VERIFY,
    flags.EXECUTION_CLIENT,
    Flag("private-key-file-lock", Kind.SWITCH, False, "Refuse to start while another instance uses the private key file"),
    Flag(
        "slashing-record-lost",
        Kind.SWITCH,
        False,
        "Start although slashing-protection.sqlite was lost or is too old, and listen for two epochs before signing again",
    ),
    Flag("nickname", Kind.TEXT, "", "Name that peers see, up to 32 bytes"),
    Flag(
        "graffiti",
        Kind.TEXTS,
        (),
        "Text in blocks: one for all validators, or one each in the lock's order; up to 28 bytes",
        blank=Blank.KEPT,
    ),
    Flag(
        "graffiti-disable-client-append", Kind.SWITCH, False, "Do not append OB and the beacon node's code; then up to 32 bytes"
    ),
    Flag(
        "allow-foreign-fee-recipient",
        Kind.SWITCH,
        False,
        "Sign blocks that pay their fees to another address than the lock's; for clusters whose other nodes override fee recipients",
    ),
    Flag("consensus-protocol", Kind.TEXT, "", "Preferred consensus protocol: qbft, or empty", words=flags.PROTOCOL_WORDS),
    *flags.p2p(flags.RUN_RELAYS),
    *flags.TESTNET,
    flags.TESTNET_CAPELLA,
    *flags.LOG,
    Flag("manifest-file", Kind.TEXT, "", "", inert="the lock is all that is needed"),
    Flag("jaeger-address", Kind.TEXT, "", "", inert="Charon gave up this form of tracing, too"),
    Flag("jaeger-service", Kind.TEXT, "", "", inert="Charon gave up this form of tracing, too"),
    *UNBUILT,
)


def run(values: Values) -> int:
    """Read and verify everything, then run the node until a signal."""
    set_up_log(values.text("log-format"), values.text("log-level"), values.text("log-color"), values.text("log-output-path"))
    import structlog

    structlog.get_logger(topic="app-start").info("Parsed config", **values.for_log())
    config = node_config(values)
    _warn_of_overrides(values)
    from supervisors.node import NodeConfig, open_node

    assert isinstance(config, NodeConfig)

    async def program() -> None:
        import trio

        async with open_node(config) as node:
            log = structlog.get_logger(topic="app-start")
            log.info(
                "Charon started",
                cluster=config.lock.lock_hash.hex()[:7],
                validators=len(config.lock.validators),
                peer=node.mesh.peers[config.own_index].name,
                index=config.own_index,
                validator_api=values.text("validator-api-address"),
                monitoring=values.text("monitoring-address"),
            )
            await trio.sleep_forever()

    return run_program(program)


def node_config(values: Values) -> object:
    """The checked configuration. Raises: UserError for whatever is missing, malformed, or doesn't fit together."""
    import msgspec

    from charon_actors.cli.inputs.state_place import state_place
    from charon_actors.cli.services.execution_client import execution_client
    from charon_actors.cluster.data_directory import load_lock, take_key_lock
    from charon_actors.cluster.faults import ClusterFault
    from charon_actors.cluster.identity import load_key_file
    from charon_actors.cluster.peers import own_peer, peers_of
    from charon_actors.crypto import k1_public_key
    from charon_actors.eth2.beacon_urls import decode_node_url
    from charon_actors.eth2.networks import network_by_fork_version
    from supervisors.node import RECORDS, NodeConfig

    nickname = values.text("nickname")
    if len(nickname.encode()) > MAX_NICKNAME_BYTES:
        raise UserError(values.where("nickname"), f"is longer than {MAX_NICKNAME_BYTES} bytes", "choose a shorter one")
    tls = _tls(values)
    networks = custom_networks(values, has_capella=True)
    key_path, lock_path = _place(values, "private-key-file"), _place(values, "lock-file")
    key = load_key_file(key_path, notice)
    is_verified = not values.switch("no-verify")
    contract = execution_client(values, is_verified=is_verified)
    try:
        lock = load_lock(lock_path, notice, is_verified=is_verified, networks_extra=networks, contract=contract)
    except UserError as error:
        raise _unknown_network(lock_path, networks) or error from None
    try:
        own = own_peer(peers_of(lock.definition), k1_public_key(key))
    except ClusterFault as fault:
        raise UserError(
            str(key_path), f"{fault} in {lock_path}", "use the key and the lock of one and the same operator"
        ) from fault
    if len(lock.validators) != len(lock.definition.validators):  # with --no-verify nobody else has said so
        raise UserError(
            str(lock_path),
            f"holds {len(lock.validators)} validators, and addresses for {len(lock.definition.validators)}",
            "restore it from a backup or another operator",
        )
    network = network_by_fork_version(lock.definition.fork_version, networks)
    if network is None:
        raise _of_unknown_network(lock_path, lock)
    primary = tuple(
        decode_node_url(text, values.where("beacon-node-endpoints")) for text in values.texts("beacon-node-endpoints")
    )
    if not primary:
        raise UserError(
            values.where("beacon-node-endpoints"), "no beacon node is given", "write for example http://127.0.0.1:5052"
        )
    where = values.where("fallback-beacon-node-endpoints")
    state_dir = state_place(
        values.path("state-dir") if values.text("state-dir") else None,
        values.where("state-dir"),
        lock_path,
        (own.name, own.public_key),
        RECORDS,
        os.environ,
        notice,
    )
    config = NodeConfig(
        lock=lock,
        private_key=key,
        own_index=own.index,
        network=network,
        state_dir=state_dir,
        beacon_nodes=primary,
        fallback_beacon_nodes=tuple(decode_node_url(text, where) for text in values.texts("fallback-beacon-node-endpoints")),
        beacon_headers=_headers(values),
        beacon_timeout_s=_positive(values, "beacon-node-timeout"),
        beacon_submit_timeout_s=_positive(values, "beacon-node-submit-timeout"),
        validator_api_address=values.text("validator-api-address"),
        monitoring_address=values.text("monitoring-address"),
        p2p_tcp_addresses=values.texts("p2p-tcp-address"),
        p2p_external_ip=values.text("p2p-external-ip"),
        p2p_external_hostname=values.text("p2p-external-hostname"),
        relays=values.texts("p2p-relays"),
        use_listen_port=not values.switch("p2p-disable-reuseport"),
        nickname=nickname,
        graffiti=_graffiti(values, len(lock.validators)),
        graffiti_names_client=not values.switch("graffiti-disable-client-append"),
        validator_api_tls=tls,
        allow_foreign_fee_recipient=values.switch("allow-foreign-fee-recipient"),
        is_slashing_record_lost=values.switch("slashing-record-lost"),
    )
    if not values.switch("private-key-file-lock"):
        return config
    # last: it is a mark that the key is in use, which a mistake in a flag must not leave behind
    key_lock = take_key_lock(key_path, "charon run", "0x" + lock.lock_hash.hex(), time.time(), state_dir, notice)
    return msgspec.structs.replace(config, key_lock=key_lock)


def _warn_of_overrides(values: Values) -> None:
    """Charon's nodes pay whom that file says; this one doesn't read it, and by itself signs nothing of the kind."""
    usual = Path(OVERRIDES_FILE)
    for path in dict.fromkeys((usual, _place(values, "lock-file").parent / usual.name)):
        if path.is_file():
            signed = (
                ""
                if values.switch("allow-foreign-fee-recipient")
                else "; blocks that pay others than the lock says are not signed"
            )
            notice(f"{path} has no effect: this version has no --overrides-file yet; {OVERRIDES.means}{signed}")


def _unknown_network(lock_path: Path, networks: "Sequence[Network]") -> UserError | None:
    """The error for a lock that can't be verified because its network is not known; None: that isn't the reason."""
    from charon_actors.cluster.faults import ClusterFault
    from charon_actors.cluster.lock_json import decode_lock
    from charon_actors.eth2.networks import network_by_fork_version

    try:
        lock = decode_lock(lock_path.read_bytes())
    except (OSError, ClusterFault):
        return None
    is_known = network_by_fork_version(lock.definition.fork_version, networks) is not None
    return None if is_known else _of_unknown_network(lock_path, lock)


def _of_unknown_network(lock_path: Path, lock: "Lock") -> UserError:
    version = "0x" + lock.definition.fork_version.hex()
    return UserError(str(lock_path), f"no network with fork version {version} is known", "give the --testnet flags")


def _place(values: Values, name: str) -> Path:
    """The file of a flag, in --data-dir if only that is given."""
    if values.text("data-dir") and not values.is_set(name):
        return values.path("data-dir") / Path(values.text(name)).name
    return values.path(name)


def _graffiti(values: Values, validators: int) -> tuple[bytes, ...]:
    from charon_actors.eth2.graffiti import MAX_GRAFFITI_BYTES, SUFFIX_BYTES

    limit = MAX_GRAFFITI_BYTES - (0 if values.switch("graffiti-disable-client-append") else SUFFIX_BYTES)
    texts = tuple(text.encode() for text in values.texts("graffiti"))
    if any(len(text) > limit for text in texts):
        raise UserError(values.where("graffiti"), f"is longer than {limit} bytes", "choose a shorter one")
    if len(texts) not in (0, 1, validators):
        what = f"{len(texts)} texts for {validators} validators"
        raise UserError(values.where("graffiti"), what, "give one for all, or one each, separated by commas")
    return texts


def _tls(values: Values) -> "Tls | None":
    """The validator API's certificate, which was tried. Raises UserError."""
    import ssl

    from actors.validator_api import Tls

    names = ("vc-tls-cert-file", "vc-tls-key-file")
    if not any(values.text(name) for name in names):
        return None
    for name in names:
        if not values.text(name):
            given = next(name for name in names if values.text(name))
            raise UserError(values.where(given), f"given without --{name}", "give both files, or none")
    certificate, key = map(values.path, names)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no certificate and its key in PEM form"
        elsewhere = [values.where(name) for name in names if not values.where(name).startswith("--")]
        place = f"{certificate}, {key}" + (f" ({', '.join(elsewhere)})" if elsewhere else "")
        raise UserError(place, f"cannot be used for TLS ({reason})", "give a PEM certificate and its key") from None
    return Tls(str(certificate), str(key))


def _headers(values: Values) -> tuple[tuple[str, str], ...]:
    from charon_actors.eth2.beacon_urls import decode_header_flag

    found: list[tuple[str, str]] = []
    for text in values.texts("beacon-node-headers"):
        try:
            found += decode_header_flag(text)
        except UserError as error:
            remedy = "write http headers as comma separated values formatted as header=value"
            raise UserError(values.where("beacon-node-headers"), "an item is not header=value", remedy) from error
    return tuple(found)


def _positive(values: Values, name: str) -> float:
    seconds = values.seconds(name)
    if seconds <= 0:
        raise UserError(values.where(name), "is not a positive duration", "write for example 2s")
    return seconds


command = charon_command(
    "run",
    "Run a node of the cluster: between a beacon node and a validator client, together with the nodes of the other operators",
    run,
    FLAGS,
    example="charon run --beacon-node-endpoints http://127.0.0.1:5052 --p2p-tcp-address 0.0.0.0:3610",
)

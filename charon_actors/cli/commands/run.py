"""`charon run`: the node between a beacon node and a validator client. Source: specification 09 §3.2, §4, §6."""

import os
import time
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
    from charon_actors.eth2.beacon_urls import NodeUrl
    from supervisors.node import NodeConfig
    from supervisors.node_files import NodeFiles

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
    from supervisors.node import open_node

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


def node_config(values: Values) -> "NodeConfig":
    """The checked configuration. Raises: UserError for whatever is missing, malformed, or doesn't fit together."""
    import msgspec

    from charon_actors.cli.inputs.state_place import state_place
    from charon_actors.files.data_directory import take_key_lock
    from supervisors.node import RECORDS
    from supervisors.node_files import decode_beacon_nodes

    nickname = values.text("nickname")
    if len(nickname.encode()) > MAX_NICKNAME_BYTES:
        raise UserError(values.where("nickname"), f"is longer than {MAX_NICKNAME_BYTES} bytes", "choose a shorter one")
    tls = _tls(values)
    key_path, lock_path = _place(values, "private-key-file"), _place(values, "lock-file")
    files = _files(values, key_path, lock_path)
    beacon_nodes = decode_beacon_nodes(values.texts("beacon-node-endpoints"), values.where("beacon-node-endpoints"))
    state_dir = state_place(
        values.path("state-dir") if values.text("state-dir") else None,
        values.where("state-dir"),
        lock_path,
        (files.own.name, files.own.public_key),
        RECORDS,
        os.environ,
        notice,
    )
    config = msgspec.structs.replace(_settings(values, files, state_dir, beacon_nodes), nickname=nickname, validator_api_tls=tls)
    if not values.switch("private-key-file-lock"):
        return config
    # last: it is a mark that the key is in use, which a mistake in a flag must not leave behind
    key_lock = take_key_lock(key_path, "charon run", "0x" + files.lock.lock_hash.hex(), time.time(), state_dir, notice)
    return msgspec.structs.replace(config, key_lock=key_lock)


def _files(values: Values, key_path: Path, lock_path: Path) -> "NodeFiles":
    from charon_actors.cli.services.execution_client import execution_client
    from supervisors.node_files import read_node_files

    is_verified = not values.switch("no-verify")
    return read_node_files(
        key_path,
        lock_path,
        notice,
        is_verified=is_verified,
        networks=custom_networks(values, has_capella=True),
        contract=execution_client(values, is_verified=is_verified),
    )


def _settings(values: Values, files: "NodeFiles", state_dir: Path, beacon_nodes: "tuple[NodeUrl, ...]") -> "NodeConfig":
    from charon_actors.eth2.beacon_urls import decode_node_url
    from supervisors.node import NodeConfig

    fallback = values.where("fallback-beacon-node-endpoints")
    return NodeConfig(
        lock=files.lock,
        private_key=files.private_key,
        own_index=files.own.index,
        network=files.network,
        state_dir=state_dir,
        beacon_nodes=beacon_nodes,
        fallback_beacon_nodes=tuple(decode_node_url(text, fallback) for text in values.texts("fallback-beacon-node-endpoints")),
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
        graffiti=_graffiti(values, len(files.lock.validators)),
        graffiti_names_client=not values.switch("graffiti-disable-client-append"),
        allow_foreign_fee_recipient=values.switch("allow-foreign-fee-recipient"),
        is_slashing_record_lost=values.switch("slashing-record-lost"),
    )


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

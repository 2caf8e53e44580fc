"""Which requests may be passed on to a beacon node, and which never. Pure.

A partial signature must not reach a beacon node, and a validator client must not get unsigned data that the cluster has not
agreed on. So in the part of the API where validator clients sign, the rule is: what isn't known to be harmless is refused with
501 (07 §3, safety note). Whatever a future fork adds there is refused until somebody writes it down here.

    path                              methods           passed on
    /eth/v*/validator/…               all               ALLOWED_VALIDATOR only (subscriptions, liveness, duties by another method)
    /eth/v*/beacon/…                  not GET, HEAD     ALLOWED_BEACON only (questions in a body); so no pool, no blocks, no envelopes
    /eth/v*/builder/…                 not GET, HEAD     nothing
    any path with a doubtful form     all               nothing (two meanings of one path: `..`, doubly escaped, backslashes)
    everything else                   all               yes

The decision is made on the path as the most lenient server would read it: unescaped, lower case, without path parameters (`;x`) and
empty segments. Source: specification 07 §3, §5, §6.1.
"""

import re
from typing import Final
from urllib.parse import unquote

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_UNESCAPES: Final = 2
OTHER: Final = "other"
_VALUES: Final = (
    (re.compile(r"[0-9]+", flags=re.ASCII), "{n}"),
    (re.compile(r"0[xX][0-9a-fA-F]+"), "{hex}"),
    (re.compile(r"16Uiu2HA[1-9A-Za-z]+|12D3KooW[1-9A-Za-z]+|Qm[1-9A-Za-z]{44}"), "{peer_id}"),
)

ALLOWED_VALIDATOR: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"v1/validator/(beacon|sync)_committee_subscriptions",
        r"v1/validator/liveness/[^/]+",
        r"v1/validator/duties/(attester|sync|proposer)/[^/]+",  # intercepted; by another method the beacon node says 404 or 405
        r"v2/validator/duties/proposer/[^/]+",
    )
)
ALLOWED_BEACON: Final = tuple(
    re.compile(pattern) for pattern in (r"v1/beacon/states/[^/]+/validator(s|_balances|_identities)", r"v1/beacon/rewards/.+")
)
TO_ALL: Final = re.compile(r"v1/validator/(beacon|sync)_committee_subscriptions")

# Small answers that many validators of one client ask for at the same moment (07 §7.3 #16).
COALESCED: Final = re.compile(
    r"/eth/v[12]/(beacon/(genesis|headers(/[^/]+)?|blocks/[^/]+/root|states/[^/]+/(root|fork|finality_checkpoints))"
    r"|config/[a-z_]+|node/[a-z_]+)"
)


# What the Beacon API has below /eth/v1 to /eth/v4, as a metric may name it; {} is a value.
_PATHS: Final = """
beacon/blinded_blocks beacon/blinded_blocks/{} beacon/blob_sidecars/{} beacon/blobs/{} beacon/blocks beacon/blocks/{}
beacon/blocks/{}/attestations beacon/blocks/{}/root beacon/deposit_snapshot beacon/genesis beacon/headers beacon/headers/{}
beacon/light_client/bootstrap/{} beacon/light_client/finality_update beacon/light_client/optimistic_update
beacon/light_client/updates beacon/pool/attestations beacon/pool/attester_slashings beacon/pool/bls_to_execution_changes
beacon/pool/payload_attestations beacon/pool/proposer_slashings beacon/pool/sync_committees beacon/pool/voluntary_exits
beacon/rewards/attestations/{} beacon/rewards/blocks/{} beacon/rewards/sync_committee/{} beacon/states/{}/committees
beacon/states/{}/finality_checkpoints beacon/states/{}/fork beacon/states/{}/pending_consolidations
beacon/states/{}/pending_deposits beacon/states/{}/pending_partial_withdrawals beacon/states/{}/proposer_lookahead
beacon/states/{}/randao beacon/states/{}/root beacon/states/{}/sync_committees beacon/states/{}/validator_balances
beacon/states/{}/validator_identities beacon/states/{}/validators beacon/states/{}/validators/{}
builder/states/{}/expected_withdrawals config/deposit_contract config/fork_schedule config/spec
debug/beacon/data_column_sidecars/{} debug/beacon/heads debug/beacon/states/{} debug/fork_choice events node/health
node/identity node/peer_count node/peers node/peers/{} node/syncing node/version validator/aggregate_and_proofs
validator/aggregate_attestation validator/attestation_data validator/beacon_committee_selections
validator/beacon_committee_subscriptions validator/blinded_blocks/{} validator/blocks/{} validator/contribution_and_proofs
validator/duties/attester/{} validator/duties/proposer/{} validator/duties/sync/{} validator/liveness/{}
validator/prepare_beacon_proposer validator/register_validator validator/sync_committee_contribution
validator/sync_committee_selections validator/sync_committee_subscriptions
"""
_KNOWN: Final = frozenset(_PATHS.split())
_VERSIONS: Final = frozenset({"v1", "v2", "v3", "v4"})
_NAMED_IDS: Final = frozenset({"head", "genesis", "justified", "finalized"})  # of states and blocks


def path_label(path: str) -> str:
    """The path as a metric's label: parts joined by `_`, those that are values replaced (10 §3.5); OTHER for what the Beacon API
    doesn't have. path: unescaped."""
    parts = [part for part in path.split("/") if part]
    if len(parts) < 3 or parts[0] != "eth" or parts[1] not in _VERSIONS:
        return OTHER
    values = [next((name for pattern, name in _VALUES if pattern.fullmatch(part)), None) for part in parts]
    known = "/".join("{}" if value or part in _NAMED_IDS else part for part, value in zip(parts[2:], values[2:], strict=True))
    return "_".join(value or part for part, value in zip(parts, values, strict=True)) if known in _KNOWN else OTHER


def normal_path(path: str) -> str | None:
    """The path as the most lenient server reads it, without slashes at the ends; None if it is doubtful."""
    for _ in range(MAX_UNESCAPES):
        unescaped = unquote(path)
        if unescaped == path:
            break
        path = unescaped
    if "%" in path or "\\" in path or any(ord(c) < 0x21 for c in path):
        return None
    segments = [segment.partition(";")[0] for segment in path.lower().split("/")]
    if any(segment == ".." for segment in segments):
        return None
    return "/".join(segment for segment in segments if segment not in ("", "."))


def may_be_passed_on(method: str, path: str) -> bool:
    """Whether a request that no route of ours has taken may go to a beacon node. path: as sent, escaped or not."""
    normal = normal_path(path)
    if normal is None:
        return False
    if not normal.startswith("eth/"):
        return True
    rest = normal.removeprefix("eth/")
    area = rest.split("/")[1] if "/" in rest else ""
    if area == "validator":
        return any(pattern.fullmatch(rest) for pattern in ALLOWED_VALIDATOR)
    if area == "beacon" and method not in SAFE_METHODS:
        return any(pattern.fullmatch(rest) for pattern in ALLOWED_BEACON)
    return area != "builder" or method in SAFE_METHODS


def goes_to_all(path: str) -> bool:
    """Whether every beacon node must get it, not only the fastest."""
    normal = normal_path(path)
    return normal is not None and TO_ALL.fullmatch(normal.removeprefix("eth/")) is not None


def cleaned(path: str) -> str:
    """The path without empty and dot segments; a path that changes is answered 301 to this one (07 §1.1 step 1)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    is_open = bool(kept) and segments[-1] in ("", ".", "..")
    return "/" + "/".join(kept) + ("/" if is_open else "")

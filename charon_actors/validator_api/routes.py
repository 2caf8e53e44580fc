"""The routes that this node answers itself, as a table, and how a request finds its route. Pure.

A path that matches with another method is no route of ours (no 405): it is a request to pass on, or to refuse (`passing_on.py`).
A trailing slash doesn't match. Numbers in brackets are those of the specification's table.

    answer                            routes
    the node's own                    handlers, by the name in `Route.handler`
    404 NotFound                      retired routes (6, 10, 11, 19, 20, 22, 24)
    501                               duties that this node doesn't perform yet (18, 21, 23, 25 to 28, 30): never passed on
    200, nothing done                 registrations and preparations (17, 29): the node submits its own (07 §5.10)

Source: specification 07 §3.
"""

from typing import Final

import msgspec

RETIRED: Final = "retired"
NOT_BUILT: Final = "not built"
SWALLOWED: Final = "swallowed"


class Route(msgspec.Struct, frozen=True):
    """One row. endpoint: the label in logs and metrics. takes_ssz: as request body. is_block: the body has a block, else a list.

    has_time_limit: 10 s (07 §1).
    """

    method: str
    path: str
    endpoint: str
    handler: str
    takes_ssz: bool = False
    is_block: bool = False
    has_time_limit: bool = True


ROUTES: Final = (
    Route("POST", "/eth/v1/validator/duties/attester/{epoch}", "attester_duties", "attester_duties"),
    Route("GET", "/eth/v1/validator/duties/proposer/{epoch}", "proposer_duties", "proposer_duties"),
    Route("GET", "/eth/v2/validator/duties/proposer/{epoch}", "proposer_duties_v2", "proposer_duties_v2"),
    Route("POST", "/eth/v1/validator/duties/sync/{epoch}", "sync_committee_duties", "sync_duties"),
    Route("GET", "/eth/v1/validator/attestation_data", "attestation_data", "attestation_data"),
    Route("POST", "/eth/v1/beacon/pool/attestations", "submit_attestations", RETIRED),
    Route("POST", "/eth/v2/beacon/pool/attestations", "submit_attestations_v2", "submit_attestations"),
    Route("GET", "/eth/v1/beacon/states/{state_id}/validators", "get_validators", "validators"),
    Route("POST", "/eth/v1/beacon/states/{state_id}/validators", "get_validators", "validators"),
    Route("GET", "/eth/v1/beacon/states/{state_id}/validators/{validator_id}", "get_validator", "validator"),
    Route("GET", "/eth/v2/validator/blocks/{slot}", "propose_block", RETIRED),
    Route("GET", "/eth/v1/validator/blinded_blocks/{slot}", "propose_blinded_block", RETIRED),
    Route("GET", "/eth/v3/validator/blocks/{slot}", "propose_block_v3", "propose_block"),
    Route("POST", "/eth/v1/beacon/blocks", "submit_proposal_v1", "submit_block", True, True),
    Route("POST", "/eth/v2/beacon/blocks", "submit_proposal_v2", "submit_block", True, True),
    Route("POST", "/eth/v1/beacon/blinded_blocks", "submit_blinded_block_v1", "submit_blinded_block", True, True),
    Route("POST", "/eth/v2/beacon/blinded_blocks", "submit_blinded_block_v2", "submit_blinded_block", True, True),
    Route("POST", "/eth/v1/validator/register_validator", "submit_validator_registration", SWALLOWED, True),
    Route("POST", "/eth/v1/beacon/pool/voluntary_exits", "submit_voluntary_exit", NOT_BUILT),
    Route("GET", "/teku_proposer_config", "teku_proposer_config", RETIRED),
    Route("GET", "/proposer_config", "proposer_config", RETIRED),
    Route("POST", "/eth/v1/validator/beacon_committee_selections", "aggregate_beacon_committee_selections", NOT_BUILT),
    Route("GET", "/eth/v1/validator/aggregate_attestation", "aggregate_attestation", RETIRED),
    Route("GET", "/eth/v2/validator/aggregate_attestation", "aggregate_attestation_v2", NOT_BUILT),
    Route("POST", "/eth/v1/validator/aggregate_and_proofs", "submit_aggregate_and_proofs", RETIRED),
    Route("POST", "/eth/v2/validator/aggregate_and_proofs", "submit_aggregate_and_proofs_v2", NOT_BUILT, True),
    Route("POST", "/eth/v1/beacon/pool/sync_committees", "submit_sync_committee_messages", NOT_BUILT),
    Route("GET", "/eth/v1/validator/sync_committee_contribution", "sync_committee_contribution", NOT_BUILT),
    Route("POST", "/eth/v1/validator/contribution_and_proofs", "submit_contribution_and_proofs", NOT_BUILT),
    Route("POST", "/eth/v1/validator/prepare_beacon_proposer", "submit_proposal_preparations", SWALLOWED),
    Route("POST", "/eth/v1/validator/sync_committee_selections", "aggregate_sync_committee_selections", NOT_BUILT),
    Route("GET", "/eth/v1/node/version", "node_version", "node_version"),
    Route("GET", "/eth/v1/node/health", "node_health", "node_health"),
    Route("GET", "/eth/v1/node/syncing", "node_syncing", "node_syncing"),
    Route("GET", "/eth/v1/events", "events", "events", has_time_limit=False),
)


def _table() -> dict[tuple[str, int], list[tuple[list[str], Route]]]:
    table: dict[tuple[str, int], list[tuple[list[str], Route]]] = {}
    for route in ROUTES:
        segments = route.path.split("/")
        table.setdefault((route.method, len(segments)), []).append((segments, route))
    return table


_TABLE: Final = _table()


def route_for(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route of a request and its path parameters; None if there is none. path: unescaped."""
    segments = path.split("/")
    for pattern, route in _TABLE.get((method, len(segments)), ()):
        params: dict[str, str] = {}
        for expected, segment in zip(pattern, segments, strict=True):
            if expected[:1] == "{" and segment:
                params[expected[1:-1]] = segment
            elif expected != segment:
                break
        else:
            return route, params
    return None

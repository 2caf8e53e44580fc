"""The peers of a cluster: its operators in the order of the file. Pure.

A peer index is the position in the file (`share_index.py`). Source: specification 01, section 1.1; 03, section 2.
"""

from collections.abc import Iterable, Sequence

import msgspec

from charon_actors.cluster.definition import Definition, Operator
from charon_actors.cluster.faults import ClusterFault
from charon_actors.enr import EnrFault, Record, consensus_keys, decode_enr
from charon_actors.p2p.peer_id import peer_id_of, peer_name
from charon_actors.share_index import share_index_of


class Peer(msgspec.Struct, frozen=True):
    """index: from 0; share_index: from 1. public_key: 33 bytes, compressed. name: made of words, for logs and metrics."""

    index: int
    share_index: int
    public_key: bytes
    peer_id: bytes
    name: str
    enr: Record


def peers_of(definition: Definition) -> tuple[Peer, ...]:
    """The operators as peers, ENR signatures verified. Raises ClusterFault for a bad ENR or the same key twice."""
    peers: list[Peer] = []
    for index, operator in enumerate(definition.operators):
        try:
            record = decode_enr(operator.enr)
        except EnrFault as error:
            raise ClusterFault(f"operator {index}: invalid ENR: {error}") from error
        peer_id = peer_id_of(record.public_key)
        peers.append(Peer(index, share_index_of(index), record.public_key, peer_id, peer_name(peer_id), record))
    if len({peer.peer_id for peer in peers}) != len(peers):
        raise ClusterFault("definition contains duplicate peer ids")
    return tuple(peers)


def of_consensus_clients(operators: Iterable[Operator]) -> list[str]:
    """A sentence for each operator whose ENR is one of a consensus client: it was taken from the wrong program.

    ENRs that can't be read are left to whoever checks them.
    """
    warnings = []
    for index, operator in enumerate(operators):
        try:
            keys = consensus_keys(decode_enr(operator.enr)) if operator.enr else ""
        except EnrFault:
            continue
        if keys:
            warnings.append(f"operator {index}: {of_consensus_client(keys)}")
    return warnings


def of_consensus_client(keys: str) -> str:
    """What to tell of an ENR with these keys."""
    return f"the ENR seems to be one of a consensus client (it has {keys}); an operator's is what `charon enr` prints"


def own_peer(peers: Sequence[Peer], public_key: bytes) -> Peer:
    """The peer with this identity key (33 bytes). Raises ClusterFault when none has it."""
    for peer in peers:
        if peer.public_key == public_key:
            return peer
    raise ClusterFault("unknown private key provided, it doesn't match any public key encoded inside the operator ENRs")

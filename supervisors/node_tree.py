"""What runs inside `charon run`, who restarts what, in which order it starts (top down) and stops (bottom up)."""

from collections.abc import Sequence
from typing import Final

from supervisors.network import NETWORK_PERIOD_S, network_supervisor
from supervisors.supervisor import Supervisor, Worker

PERIOD_S: Final = 600.0


def node_tree(network: Sequence[str], key_lock: Sequence[Worker] = ()) -> Supervisor:
    """The tree of a node. network: the mesh's children (listener, one a relay, one a peer) in start order.
    key_lock: see `network.py`.

    one_for_one everywhere: actors hold Addresses, which outlive a restart, so nobody has to die with a neighbour. Intensities
    multiply on the way up: a child that always crashes starts some two dozen times before systemd sees an exit. A peer is allowed
    more: what others send must not be able to take the node down, only to keep that one peer's child busy restarting.
    """
    return Supervisor(
        "node",
        "one_for_one",
        intensity=3,
        period_s=PERIOD_S,
        children=(
            *key_lock,
            Worker("monitoring", shutdown_s=1),
            Worker("identity"),
            Worker("crypto_workers"),
            Worker("slashing"),
            Worker("beacon"),
            network_supervisor(network),
            Supervisor(
                "duty_path",
                "one_for_one",
                intensity=5,
                period_s=NETWORK_PERIOD_S,
                children=(
                    Worker("consensus"),
                    Worker("signatures"),
                    Worker("duties"),
                    Worker("validator_api", shutdown_s=5),  # last: when it answers, all that it asks is there
                ),
            ),
            Worker("graffiti"),
            Worker("readiness"),
        ),
    )

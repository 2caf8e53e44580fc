"""The ceremony on the first floor: the actor that carries it out, its streams, and the handlers that peers reach it through."""

from actors.dkg.actor import CeremonyActor, CeremonyOptions
from actors.dkg.handlers import ceremony_handlers
from actors.dkg.messages import Message
from actors.dkg.sending import PeerNetwork

__all__ = ["CeremonyActor", "CeremonyOptions", "Message", "PeerNetwork", "ceremony_handlers"]

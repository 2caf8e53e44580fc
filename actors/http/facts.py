"""What an HTTP server says about its port."""

from actors.facts import Fact


class ConnectionDropped(Fact, frozen=True):
    """A connection had to go or was turned away. port: the server's name. reason: as of `Port`."""

    port: str
    reason: str

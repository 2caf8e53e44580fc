"""HTTP/1.1 ports for ASGI applications: which connections get a place on the port, what one may cost, and how it all ends.

    async with trio.open_nursery() as nursery:
        with bind("127.0.0.1:8080", "--some-flag") as listening:
            nursery.start_soon(partial(serve, application, listening, limits=Limits(connections=64)))

`server.py` accepts and stops, `port.py` decides who has a place, `connection.py` speaks HTTP with one client, by h11.
"""

from actors.http.connection import Application
from actors.http.facts import ConnectionDropped
from actors.http.port import Limits
from actors.http.server import bind, serve, split_endpoint, tls_context

__all__ = ["Application", "ConnectionDropped", "Limits", "bind", "serve", "split_endpoint", "tls_context"]

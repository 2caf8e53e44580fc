"""Whose fault decides the type of an error.

    whose                    type                what happens
    the operator's           UserError           one line: where, what, what to do; non-zero exit; no traceback
    a peer's or a server's   the room's …Fault   that stream or instance ends, counted and named; the node goes on
    the moment's             Retryable           the caller tries again until its deadline
    ours                     AssertionError, …   the actor crashes and is restarted; the log has the traceback

The ground floor raises `UserError`; only the door (`charon_actors.cli`) prints it.
"""


class UserError(Exception):
    """Something the operator can put right. Its text is the one line that the operator sees.

    where: the file, flag, environment variable or address. what: what is wrong with it. remedy: what to do next.
    None of the three may hold a secret.
    """

    def __init__(self, where: str, what: str, remedy: str) -> None:
        super().__init__(f"{where}: {what}; {remedy}")
        self.where, self.what, self.remedy = where, what, remedy

    def move(self, where: str) -> None:
        """Name another place: somebody above knows better where the mistake was made."""
        self.where = where
        self.args = (f"{where}: {self.what}; {self.remedy}",)


class Retryable(Exception):
    """The moment is wrong, not the request: ask again until your own deadline."""

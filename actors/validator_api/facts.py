"""What the validator API says about its work."""

from actors.facts import Fact


class RequestSeen(Fact, frozen=True):
    """One request has ended.

    endpoint: of the route, or PASSED_ON. path: of what was passed on, as `passing_on.path_label` writes it. status: 0 if the client left.
    content_type: of the request, one of two.
    """

    endpoint: str
    path: str
    status: int
    seconds: float
    content_type: str
    user_agent: str

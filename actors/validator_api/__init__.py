"""The HTTP API that the validator client talks to."""

from actors.validator_api.actor import Tls, ValidatorApi
from actors.validator_api.app import PASSED_ON
from actors.validator_api.facts import RequestSeen

__all__ = ["PASSED_ON", "RequestSeen", "Tls", "ValidatorApi"]

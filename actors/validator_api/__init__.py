"""The HTTP API that the validator client talks to."""

from actors.validator_api.actor import Tls, ValidatorApi
from actors.validator_api.app import PASSED_ON
from actors.validator_api.facts import RequestSeen
from charon_actors.validator_api.share_keys import KeyShares, UnknownKey

__all__ = ["PASSED_ON", "KeyShares", "RequestSeen", "Tls", "UnknownKey", "ValidatorApi"]

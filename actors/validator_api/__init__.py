"""The HTTP API that the validator client talks to."""

from actors.validator_api.actor import Tls, ValidatorApi
from actors.validator_api.app import RequestSeen
from actors.validator_api.key_shares import KeyShares, UnknownKey

__all__ = ["KeyShares", "RequestSeen", "Tls", "UnknownKey", "ValidatorApi"]

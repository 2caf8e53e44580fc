"""What a validator signs about itself: exits and builder registrations. Source: specification 05 §10.1, §10.2."""

from typing import Any

import msgspec

from charon_actors.bounded_json import OBJECT
from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.signed.parts import replaced, ssz_or_json
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.ssz import EncodingFault
from charon_actors.eth2.versioned import encode_json, json_member, parse_versioned_json


class SignedVoluntaryExit(msgspec.Struct, frozen=True):
    """A validator wants to leave from `epoch` on. Its duty has the first slot of that epoch."""

    epoch: int
    validator_index: int
    signature: bytes

    def with_signature(self, signature: bytes) -> "SignedVoluntaryExit":
        return replaced(self, "signature", signature)

    def object_root(self) -> bytes:
        return containers.VOLUNTARY_EXIT.hash_tree_root(msgspec.structs.asdict(self))

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.VOLUNTARY_EXIT, self.epoch)

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.EXIT and chain.first_slot(self.epoch) == duty.slot

    def encode(self) -> bytes:
        return encode_json(self.to_json())

    def encode_ssz(self) -> bytes:
        """The 112 bytes that are understood as well, but never sent."""
        return containers.SIGNED_VOLUNTARY_EXIT.encode(self._value())

    @classmethod
    def decode(cls, data: bytes) -> "SignedVoluntaryExit":
        """From JSON or 112 bytes of SSZ. Raises: EncodingFault."""
        return cls._from_value(ssz_or_json(containers.SIGNED_VOLUNTARY_EXIT, data))

    @classmethod
    def from_json(cls, value: object) -> "SignedVoluntaryExit":
        """From the Beacon API's object. Raises: EncodingFault."""
        return cls._from_value(containers.SIGNED_VOLUNTARY_EXIT.from_json(value))

    def to_json(self) -> dict[str, Any]:
        return containers.SIGNED_VOLUNTARY_EXIT.to_json(self._value())

    to_wire_json = to_json

    @classmethod
    def _from_value(cls, value: dict[str, Any]) -> "SignedVoluntaryExit":
        message = value["message"]
        return cls(message["epoch"], message["validator_index"], value["signature"])

    def _value(self) -> dict[str, Any]:
        message = {"epoch": self.epoch, "validator_index": self.validator_index}
        return {"message": message, "signature": self.signature}


class SignedValidatorRegistration(msgspec.Struct, frozen=True):
    """A builder registration. fee_recipient: 20 bytes; pubkey: the group's, 48; timestamp: Unix seconds."""

    fee_recipient: bytes
    gas_limit: int
    timestamp: int
    pubkey: bytes
    signature: bytes

    def with_signature(self, signature: bytes) -> "SignedValidatorRegistration":
        return replaced(self, "signature", signature)

    def object_root(self) -> bytes:
        return containers.VALIDATOR_REGISTRATION.hash_tree_root(msgspec.structs.asdict(self))

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.APPLICATION_BUILDER, 0)

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.BUILDER_REGISTRATION

    def encode(self) -> bytes:
        return encode_json(self.to_wire_json())

    def to_wire_json(self) -> object:
        return {"version": 0, "registration": self.to_json()}  # 0 is builder v1, the only one

    @classmethod
    def decode(cls, data: bytes) -> "SignedValidatorRegistration":
        """From the JSON form. Raises: EncodingFault."""
        value = parse_versioned_json(data, OBJECT)
        version = json_member(value, "version")
        if version != 0 or isinstance(version, bool):
            raise EncodingFault("a builder registration of an unknown version")
        return cls.from_json(json_member(value, "registration"))

    @classmethod
    def from_json(cls, value: object) -> "SignedValidatorRegistration":
        """From the Beacon API's object. Raises: EncodingFault."""
        fields = containers.SIGNED_VALIDATOR_REGISTRATION.from_json(value)
        return cls(**fields["message"], signature=fields["signature"])

    def to_json(self) -> dict[str, Any]:
        message = msgspec.structs.asdict(self)
        return containers.SIGNED_VALIDATOR_REGISTRATION.to_json({"message": message, "signature": self.signature})

"""ParSigExMsg by hand: what no protobuf library writes. The messages of Charon are in `tests/vectors_audit`."""

import pytest

from charon_actors.eth2.signed_data import EncodingFault
from charon_actors.p2p.framing import encode_delimited
from charon_actors.signatures.wire import MAX_VALIDATORS, decode_message
from tests.charon_actors.signatures.signed import DUTY, keys


def entry(key: bytes) -> bytes:
    return b"\x0a" + encode_delimited(b"\x0a" + encode_delimited(key) + b"\x12\x02\x18\x02")


def enveloped(*entries: bytes, more: bytes = b"") -> bytes:
    return b"\x0a\x04\x08\x28\x10\x02" + b"\x12" + encode_delimited(b"".join(entries)) + more


def test_a_validator_twice_and_too_many_validators_are_refused() -> None:
    key = b"0x" + keys()[0].hex().encode()
    assert decode_message(enveloped(entry(key))) == (DUTY, 2, {keys()[0]: b""})
    assert decode_message(enveloped(entry(key), more=b"\x18\x01\x25abcd\x1a\x00")) == (DUTY, 2, {keys()[0]: b""})
    with pytest.raises(EncodingFault, match="twice"):
        decode_message(enveloped(entry(key), entry(key)))
    with pytest.raises(EncodingFault, match="twice"):
        decode_message(enveloped(entry(key), entry(key[2:])))
    many = enveloped(*[entry(number.to_bytes(3, "big")) for number in range(100)])
    with pytest.raises(EncodingFault, match="too many"):
        decode_message(many, 50)
    with pytest.raises(EncodingFault, match="too many"):
        decode_message(enveloped(entry(key), more=b"\x18\x01" * 2 * MAX_VALIDATORS))

"""EIP-712 digests that wallets of operators and of the creator sign. Pure.

    digest = keccak(0x1901 || domain separator || keccak(type hash || fields))

The domain is `Obol`, version `1`, and the chain id of the definition's network (terms: without chain id). Hashes are signed as
TEXT (`0x` and 64 lower-case digits), not as bytes32. Source: EIP-712; specification 01-cluster-files, section 4.
"""

from typing import Final

from charon_actors.crypto import keccak256

TERMS_HASH: Final = "0xd33721644e8f3afab1495a74abe3523cec12d48b8da6cb760972492ca3f1a273"
TERMS_VERSION: Final = 1

_DOMAIN: Final = "EIP712Domain(string name,string version,uint256 chainId)"
_DOMAIN_WITHOUT_CHAIN: Final = "EIP712Domain(string name,string version)"


def domain_separator(chain_id: int | None) -> bytes:
    """32 bytes; None: the domain without chain id."""
    names = _hash_text("Obol") + _hash_text("1")
    if chain_id is None:
        return keccak256(type_hash(_DOMAIN_WITHOUT_CHAIN) + names)
    return keccak256(type_hash(_DOMAIN) + names + chain_id.to_bytes(32, "big"))


def type_hash(type_text: str) -> bytes:
    return _hash_text(type_text)


def operator_config_digest(config_hash: bytes, chain_id: int) -> bytes:
    """What an operator signs to accept the terms of a definition. config_hash: 32 bytes."""
    return _digest("OperatorConfigHash(string operator_config_hash)", "0x" + config_hash.hex(), chain_id)


def creator_config_digest(config_hash: bytes, chain_id: int) -> bytes:
    """What the creator signs. config_hash: 32 bytes."""
    return _digest("CreatorConfigHash(string creator_config_hash)", "0x" + config_hash.hex(), chain_id)


def legacy_config_digest(config_hash: bytes, chain_id: int) -> bytes:
    """What an operator signed in schema v1.3."""
    return _digest("ConfigHash(string config_hash)", "0x" + config_hash.hex(), chain_id)


def enr_digest(enr: str, chain_id: int) -> bytes:
    """What an operator signs to own an ENR, the text of the file."""
    return _digest("ENR(string enr)", enr, chain_id)


def terms_digest() -> bytes:
    """What the creator signs when a definition is published."""
    fields = _hash_text(TERMS_HASH) + TERMS_VERSION.to_bytes(32, "big")
    struct = keccak256(type_hash("TermsAndConditions(string terms_and_conditions_hash,uint256 version)") + fields)
    return keccak256(b"\x19\x01" + domain_separator(None) + struct)


def _digest(type_text: str, value: str, chain_id: int) -> bytes:
    struct = keccak256(type_hash(type_text) + _hash_text(value))
    return keccak256(b"\x19\x01" + domain_separator(chain_id) + struct)


def _hash_text(text: str) -> bytes:
    return keccak256(text.encode("utf-8"))

"""Graffiti, by the rules of specification 05 §6.1."""

import pytest

from charon_actors.eth2.graffiti import DEFAULT_GRAFFITI, client_suffix, padded_graffiti


@pytest.mark.parametrize(
    ("version", "suffix"),
    [
        ("teku/v24.1.0/linux-x86_64", b"OBTK"),
        ("Lighthouse/v5.1.3-3058b96/x86_64-linux", b"OBLH"),
        ("Lodestar/v1.5.1/0f7f2ae", b"OBLS"),
        ("Prysm/v5.0.0 (linux amd64)", b"OBPY"),
        ("Nimbus/v24.2.2-fc9c72-stateofus", b"OBNB"),
        ("Grandine/0.4.1-8e8a9a2/x86_64-linux", b"OBGD"),
        ("erigon/caplin", b"OB"),
        ("", b"OB"),
    ],
)
def test_the_suffix_tells_the_beacon_nodes_client(version: str, suffix: bytes) -> None:
    assert client_suffix(version) == suffix


def test_texts_get_the_suffix_and_the_default_does_not() -> None:
    assert padded_graffiti(b"my cluster", b"OBLH") == b"my clusterOBLH".ljust(32, b"\0")
    assert padded_graffiti(b"g" * 28, b"OBLH") == b"g" * 28 + b"OBLH"
    assert padded_graffiti(b"g" * 32, b"") == b"g" * 32
    assert padded_graffiti(b"", b"OBLH") == DEFAULT_GRAFFITI.ljust(32, b"\0")
    assert DEFAULT_GRAFFITI.startswith(b"charon-actors/")

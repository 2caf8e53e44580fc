"""Which Charon release a node speaks like. Source: specification 04 §0, 05 and 06 (marks Δ1.10), 03 §5.1."""

import enum


class Profile(enum.Enum):
    """A minor release of Charon. All nodes of one ceremony must use the same one (04 §0)."""

    V1_10 = "v1.10"
    V1_11 = "v1.11"

    @property
    def minor(self) -> str:
        """`v1.10`: what step sync compares (04 §3.3)."""
        return self.value

    @property
    def version_text(self) -> str:
        """What peers see as our version in identify and peerinfo; they compare major and minor only (03 §2)."""
        return {Profile.V1_10: "v1.10.3", Profile.V1_11: "v1.11.0-rc3"}[self]

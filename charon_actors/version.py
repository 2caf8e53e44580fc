"""The version of this build, in one place."""

from typing import Final

VERSION: Final = "0.1.0"

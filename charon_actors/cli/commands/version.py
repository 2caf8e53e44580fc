"""`charon version`: one line that says what is installed, and which Charon releases it speaks like."""

import platform
from importlib import metadata

from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.values import Kind
from charon_actors.profile import Profile
from charon_actors.version import VERSION

DISTRIBUTION = "charon-actors"


def run(values: Values) -> int:
    speaks = ", ".join(profile.version_text for profile in Profile)
    print(f"v{VERSION} [charon-actors, python={platform.python_version()}, speaks={speaks}]")
    if values.switch("verbose"):
        _print_details()
    return 0


def _print_details() -> None:
    print(f"Package: {DISTRIBUTION}")
    print("Dependencies:")
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        name = requirement.split(";")[0].split(">")[0].split("=")[0].split("[")[0].strip()
        if "extra ==" in requirement:
            continue
        try:
            print(f"\t{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"\t{name} (absent)")
    print("Consensus protocols:")
    print("\t/charon/consensus/qbft/2.0.0")


command = charon_command(
    "version",
    "Print the version of this program.",
    run,
    [Flag("verbose", Kind.SWITCH, False, "Also print dependencies and consensus protocols")],
    example="charon version --verbose",
)

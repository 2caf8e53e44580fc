"""`charon.json`, `.toml`, `.yaml` or `.yml` in the working directory: flag values that an operator keeps.

The first that exists is used alone. Top-level keys are flag names with hyphens, in any letter case; unknown keys are
ignored, a key twice is an error, null is unset, an empty text is a value. Lists may be real lists or comma separated text.
Every scalar is read as the text that stands in the file (YAML's `yes` is "yes", `0123` is "0123"), so that a value means
the same here and on the command line. Source: specification 09-cli-and-config, section 2.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from charon_actors.bounded_json import check_depth
from charon_actors.errors import UserError

ENDINGS: Final = ("json", "toml", "yaml", "yml")
MAX_FILE_BYTES: Final = 256 << 10  # YAML is read at 0.1 MB a second

FileValues = Mapping[str, str | tuple[str, ...]]


def read_config_file(directory: Path, names: Collection[str]) -> tuple[str, FileValues]:
    """File name and values of these flag names; ("", {}) when there is no such file. Raises UserError."""
    for ending in ENDINGS:
        path = directory / f"charon.{ending}"
        if not os.path.lexists(path):
            continue
        try:
            if not path.is_file():  # Docker makes a directory for a mount whose source is missing
                raise ValueError("is no file, or a link to none")
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
            parsed = _decode(ending, path.read_text("utf-8"))
            if parsed is None:
                parsed = {}
            if not isinstance(parsed, dict):
                raise ValueError("the top level is no mapping of flag names to values")
            known = _once_each([(str(key).lower(), value) for key, value in parsed.items()])
            values = {name: _texts(name, known[name]) for name in names if known.get(name) is not None}
        except OSError as error:
            raise UserError(path.name, f"cannot read the file ({error.strerror})", "check its permissions") from error
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(path.name, f"read config: {reason}", "correct the file or move it away") from error
        return path.name, values
    return "", {}


def _decode(ending: str, text: str) -> Any:
    check_depth(text.encode("utf-8", "surrogatepass"))
    if ending == "json":
        import json

        return json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=_once_each)
    if ending == "toml":
        import tomllib

        return tomllib.loads(text)
    import yaml

    class _TextLoader(yaml.SafeLoader):
        """Resolves null only: all other scalars stay the text of the file."""

        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _once_each([(name, None) for name in names])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=_TextLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"no valid YAML: {error}") from error


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Two values for one flag: whoever wrote the file means one of them, and we don't know which."""
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key.lower() in seen:
            raise ValueError(f"{key} stands twice")
        seen[key.lower()] = value
    return dict(pairs)


def _texts(name: str, value: object) -> str | tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_scalar(name, element) for element in value)
    return _scalar(name, value)


def _scalar(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list) or value is None:
        raise ValueError(f"the value of {name} is neither text nor a list of texts")
    return str(value)

"""Values that are safe to log: tokens, headers, passwords and paths in URLs are masked. Source: 09-cli-and-config, section 2.1."""

import re

from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.values import Kind, Value, duration_text


def masked_value(flag: Flag, value: Value) -> str:
    """As text, on the flag's terms."""
    if value and (flag.secret or "auth-token" in flag.name):
        return "xxxxx"
    if isinstance(value, tuple):
        return "[" + ",".join(_masked_text(flag, str(element)) for element in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if flag.kind is Kind.DURATION:
        return duration_text(float(value))
    return _masked_text(flag, str(value))


def _masked_text(flag: Flag, text: str) -> str:
    if "header" in flag.name:
        key, found, _ = text.partition("=")
        return f"{key}=xxxxx" if found else "xxxxx"
    before, after_scheme, rest = text.partition("://")
    scheme, rest = (before + after_scheme, rest) if after_scheme else ("", text)
    user_info, is_found, host = rest.rpartition("@")  # the last one: a password that nobody has encoded may hold slashes and @
    if is_found and (scheme or ":" in user_info):
        return f"{scheme}xxxxx@{_without_path(host)}"
    return scheme + _without_path(rest) if scheme else text


def _without_path(rest: str) -> str:
    """What follows `//` in a URL; providers put their keys into paths and queries."""
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return rest if rest.removeprefix(host) in ("", "/") else f"{host}/xxxxx"

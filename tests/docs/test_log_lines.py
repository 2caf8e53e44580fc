"""Log lines are sentences of one kind: they begin in upper case and have no full stop."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
WRITERS = {"debug", "info", "warning", "error", "exception", "critical"}


def texts() -> list[tuple[str, str]]:
    """Place and text of each constant text that is logged, directly or through a method called `_say`."""
    found = []
    for package in ("charon_actors", "actors", "supervisors"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                    continue
                is_log = node.func.attr in WRITERS and "log" in ast.unparse(node.func.value).lower()
                if not (is_log or node.func.attr in ("_say", "_warn")):
                    continue
                first = node.args[0].values[:1] if isinstance(node.args[0], ast.JoinedStr) else ast.walk(node.args[0])
                constants = [part for part in first if isinstance(part, ast.Constant) and isinstance(part.value, str)]
                found += [(f"{path.relative_to(ROOT)}:{part.lineno}", str(part.value)) for part in constants]
    return found


def test_log_lines_begin_in_upper_case_and_have_no_full_stop() -> None:
    assert len(texts()) > 100
    assert [line for line in texts() if not (line[1][:1].isupper() or line[1].startswith("--")) or line[1].endswith(".")] == []

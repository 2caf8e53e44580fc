"""The door: what ends a program decides status and line."""

import os
import signal
import subprocess
import sys

import pytest
import trio

from charon_actors.cli.door import exit_status, one_line, run_program
from charon_actors.errors import UserError
from charon_actors.exception_groups import leaves


def test_leaves_of_nested_groups_come_in_order() -> None:
    a, b, c = ValueError("a"), ValueError("b"), ValueError("c")
    assert list(leaves(ExceptionGroup("x", [a, ExceptionGroup("y", [b]), c]))) == [a, b, c]
    assert list(leaves(a)) == [a]


def test_user_errors_in_groups_are_one_line_each_without_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    error = UserError("file", "broken\nError: forged \x1b[0m", "mend it")
    assert exit_status(ExceptionGroup("x", [error, ExceptionGroup("y", [error, UserError("a", "b", "c")])])) == 1
    assert capsys.readouterr().err == "Error: file: broken Error: forged ?[0m; mend it\nError: a: b; c\n"


def test_a_fault_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(ExceptionGroup("x", [UserError("a", "b", "c"), AssertionError("ours")])) == 1
    shown = capsys.readouterr().err
    assert "AssertionError: ours" in shown
    assert shown.endswith("please report the lines above\n")


def test_interrupts_have_their_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(BaseExceptionGroup("x", [KeyboardInterrupt()])) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_lines_are_bounded() -> None:
    line = one_line("x" * 10_000 + "; remedy")
    assert len(line) < 2100
    assert line.endswith("; remedy")


def test_a_program_that_returns_gives_its_status() -> None:
    async def program() -> int:
        await trio.lowlevel.checkpoint()
        return 3

    assert run_program(program) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stopped_status", [0, 1])
def test_a_signal_cancels_and_waits_for_shielded_clean_up(number: signal.Signals, stopped_status: int) -> None:
    cleaned = []

    async def program() -> None:
        try:
            os.kill(os.getpid(), number)
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                cleaned.append(True)

    before = signal.getsignal(number)
    assert run_program(program, stopped_status=stopped_status) == stopped_status
    assert cleaned == [True]
    assert signal.getsignal(number) == before


def test_an_error_of_the_program_comes_out() -> None:
    async def program() -> None:
        await trio.lowlevel.checkpoint()
        raise UserError("a", "b", "c")

    with pytest.raises(ExceptionGroup) as caught:
        run_program(program)
    assert [str(leaf) for leaf in leaves(caught.value)] == ["a: b; c"]


SWALLOWS = """
import os, signal, sys, weakref
from charon_actors.cli import door

class Anything: ...
def interrupted(*_):
    os.kill(os.getpid(), signal.{number})

async def program():
    print("it ran")

door.watch_signals()
try:
    {how}
except BaseException:
    pass
try:
    door.run_program(program)
except BaseException as error:
    sys.exit(door.exit_status(error))
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("how", ["interrupted()", "thing = Anything(); known = weakref.ref(thing, interrupted); del thing"])
def test_a_signal_that_an_import_swallowed_still_counts(number: str, how: str) -> None:
    source = SWALLOWS.format(number=number, how=how)
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted.\n")

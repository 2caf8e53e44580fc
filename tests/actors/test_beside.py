"""Whose error comes out of a block with work beside it: each row of the table."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from actors.beside import beside
from actors.mailbox import ActorDown, Inbox, Mailbox, Request, open_actor
from charon_actors.errors import UserError

OPERATORS = UserError("place", "what", "remedy")


class OfTheBlock(Exception):
    pass


class OfTheBackground(Exception):
    pass


async def fails() -> None:
    raise OfTheBackground("background")


async def ends_with_the_operators() -> None:
    raise OPERATORS


async def fails_when_stopped() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise OfTheBackground("stopped")


@pytest.mark.parametrize(
    "error",
    [
        OfTheBlock("mine"),
        ActorDown("gone"),
        KeyboardInterrupt(),
        ExceptionGroup("two", [OfTheBlock(), OfTheBlock()]),
        StopAsyncIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_block_raises_comes_out_as_itself(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with beside(trio.sleep_forever):
            raise error
    assert caught.value is error


async def test_the_backgrounds_error_cancels_the_block_and_comes_out_as_itself() -> None:
    was_cancelled = False

    async def block() -> None:
        nonlocal was_cancelled
        async with beside(fails, trio.sleep_forever):
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                was_cancelled = True
                raise

    with pytest.raises(OfTheBackground):
        await block()
    assert was_cancelled


async def test_what_the_block_raises_while_it_is_cancelled_does_not_hide_why_it_was() -> None:
    async def block() -> None:
        async with beside(fails):
            try:
                await trio.sleep_forever()
            finally:
                raise OfTheBlock("its cleanup met a node that was gone")

    with pytest.raises(OfTheBackground) as caught:
        await block()
    assert caught.value.__notes__ == ["Besides: OfTheBlock: its cleanup met a node that was gone"]


async def test_an_interrupt_comes_out_whatever_else_has_failed() -> None:
    async def block() -> None:
        async with beside(fails):
            try:
                await trio.sleep_forever()
            finally:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await block()


async def test_an_actor_that_is_down_does_not_hide_what_the_operator_must_do() -> None:
    with pytest.raises(UserError) as caught:
        async with beside(ends_with_the_operators):
            raise ActorDown("slashing went down with the request in hand")
    assert caught.value is OPERATORS


async def test_what_fails_while_it_is_stopped_does_not_hide_the_blocks_error() -> None:
    async def block() -> None:
        async with beside(fails_when_stopped):
            await trio.testing.wait_all_tasks_blocked()
            raise OfTheBlock("first")

    with pytest.raises(OfTheBlock) as caught:
        await block()
    assert caught.value.__notes__ == ["Besides: OfTheBackground: stopped"]


async def test_what_fails_while_it_is_stopped_is_told_when_the_block_has_returned() -> None:
    async def block() -> None:
        async with beside(fails_when_stopped):
            await trio.testing.wait_all_tasks_blocked()

    with pytest.raises(OfTheBackground):
        await block()


async def test_of_several_the_operators_error_comes_out_else_all_of_them() -> None:
    with pytest.raises(UserError) as caught:
        async with beside(fails, ends_with_the_operators):
            await trio.sleep_forever()
    assert caught.value is OPERATORS
    with pytest.raises(ExceptionGroup) as both:
        async with beside(fails, fails):
            await trio.sleep_forever()
    assert [type(error) for error in both.value.exceptions] == [OfTheBackground, OfTheBackground]


@pytest.mark.parametrize("cancels", [lambda scope: scope.cancel(), lambda scope: setattr(scope, "deadline", 0)])
async def test_cancelling_from_outside_is_no_error(cancels: Callable[[trio.CancelScope], None]) -> None:
    with trio.CancelScope() as scope:
        async with beside(trio.sleep_forever):
            cancels(scope)
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_nothing_of_the_background_is_left_after_the_block() -> None:
    ended = 0

    async def waits() -> None:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            ended += 1

    async with beside(waits, waits) as nursery:
        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked()
    assert ended == 3


# one actor


class Ask(Request[int], frozen=True):
    pass


class Breaks:
    async def run(self, inbox: Inbox[Ask]) -> None:
        async for _ in inbox:
            raise OPERATORS


class Waits:
    async def run(self, inbox: Inbox[Ask]) -> None:
        await trio.sleep_forever()


async def test_around_one_actor_the_blocks_error_comes_out_as_itself() -> None:
    with pytest.raises(OfTheBlock):
        async with open_actor(Mailbox[Ask]("waits"), Waits):
            raise OfTheBlock


async def test_an_actors_own_error_comes_out_as_itself_though_its_asker_heard_actor_down() -> None:
    with pytest.raises(UserError) as caught:
        async with open_actor(Mailbox[Ask]("breaks"), Breaks) as address:
            await address.ask(Ask())
    assert caught.value is OPERATORS

from collections.abc import Callable

import pytest
import trio
import trio.testing

from actors.mailbox import (
    ActorDown,
    Inbox,
    Mailbox,
    MailboxFull,
    Policy,
    Request,
    Unanswered,
    open_actor,
    run_incarnation,
)
from charon_actors.errors import Retryable


class Double(Request[int], frozen=True):
    number: int


class Hang(Request[int], frozen=True):
    pass


class Ignored(Request[int], frozen=True):
    pass


class OutOfRange(Exception):
    pass


Message = Double | Hang | Ignored | str


class Doubler:
    def __init__(self) -> None:
        self.heard: list[str] = []

    async def run(self, inbox: Inbox[Message]) -> None:
        async with trio.open_nursery() as nursery:
            async for mail in inbox:
                match mail.message:
                    case Double(number) as request:
                        reply = mail.reply_to(request)
                        if number > 100:
                            reply.fail(OutOfRange(number))
                        else:
                            reply.send(number * 2)
                    case Hang() as hang:
                        nursery.start_soon(mail.reply_to(hang).answer, self.hang)
                    case Ignored():
                        pass
                    case "crash":
                        raise RuntimeError("crash")
                    case text:
                        self.heard.append(str(text))

    async def hang(self) -> int:
        try:
            await trio.sleep_forever()
        finally:
            self.heard.append("hang cancelled")
        return 0


async def test_ask_ends_in_the_reply_or_the_actors_error() -> None:
    async with open_actor(Mailbox[Message]("doubler"), Doubler) as address:
        assert await address.ask(Double(21)) == 42
        with pytest.raises(OutOfRange):
            await address.ask(Double(101))
        with pytest.raises(Unanswered, match="Ignored"):
            await address.ask(Ignored())


async def test_work_for_an_asker_that_left_is_cancelled() -> None:
    actor = Doubler()
    mailbox = Mailbox[Message]("doubler")
    async with open_actor(mailbox, lambda: actor) as address:
        with trio.move_on_after(0.01) as scope:
            await address.ask(Hang())
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert actor.heard == ["hang cancelled"]
        assert mailbox.statistics().taken == 0


async def test_mail_that_was_taken_fails_with_the_incarnation_and_mail_that_waits_reaches_the_next_one() -> None:
    mailbox = Mailbox[Message]("doubler")
    results: list[str] = []

    async def ask(number: int, request: Callable[[], Request[int]]) -> None:
        try:
            answer: int = await mailbox.ask(request())
            results.append(f"{number}: {answer}")
        except ActorDown:
            results.append(f"{number}: down")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 1, Hang)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.tell("crash")
        nursery.start_soon(ask, 2, lambda: Double(4))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.RaisesGroup(RuntimeError):
            await run_incarnation(mailbox, Doubler)
        await trio.testing.wait_all_tasks_blocked()
        assert results == ["1: down"]
        nursery.start_soon(run_incarnation, mailbox, Doubler)
        await trio.testing.wait_all_tasks_blocked()
        assert results == ["1: down", "2: 8"]
        mailbox.close()


async def test_a_closed_mailbox_answers_everybody_with_actor_down() -> None:
    mailbox = Mailbox[Message]("doubler")
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(ActorDown):
                await mailbox.ask(Double(1))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.close()
    with pytest.raises(ActorDown):
        mailbox.tell("late")


async def test_a_cancelled_ask_leaves_nothing_in_the_queue() -> None:
    mailbox = Mailbox[Message]("nobody")
    with trio.move_on_after(0):
        await mailbox.ask(Double(1))
    assert mailbox.statistics().queued == 0


@pytest.mark.parametrize("policy", [Policy.REJECT, Policy.WAIT])
async def test_tell_never_waits(policy: Policy) -> None:
    mailbox = Mailbox[Message]("full", capacity=2, policy=policy)
    mailbox.tell("a")
    mailbox.tell("b")
    with pytest.raises(MailboxFull):
        mailbox.tell("c")
    assert mailbox.statistics().rejected == 1
    assert issubclass(MailboxFull, Retryable)


async def test_drop_oldest_tells_the_asker_that_was_dropped() -> None:
    mailbox = Mailbox[Message]("full", capacity=1, policy=Policy.DROP_OLDEST)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(MailboxFull):
                await mailbox.ask(Double(1))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.tell("newer")
    assert mailbox.statistics().dropped == 1


async def test_ask_and_deliver_wait_for_room_under_the_policy_wait() -> None:
    mailbox = Mailbox[Message]("full", capacity=1, policy=Policy.WAIT)
    actor = Doubler()
    mailbox.tell("first")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.deliver, "second")
        await trio.testing.wait_all_tasks_blocked()
        assert mailbox.statistics().queued == 1
        async with open_actor(mailbox, lambda: actor) as address:
            assert await address.ask(Double(3)) == 6
            await trio.testing.wait_all_tasks_blocked()
            assert actor.heard == ["first", "second"]


async def test_waiting_for_mail_can_be_cancelled_without_losing_any() -> None:
    mailbox = Mailbox[Message]("slow")
    with mailbox.open() as inbox:
        with trio.move_on_after(0.01):
            await inbox.__anext__()
        mailbox.tell("kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            await inbox.__anext__()
        assert (await inbox.__anext__()).message == "kept"


@pytest.mark.parametrize("first_is_value", [True, False])
async def test_the_first_of_send_and_fail_counts(first_is_value: bool) -> None:
    class Twice:
        async def run(self, inbox: Inbox[Message]) -> None:
            async for mail in inbox:
                assert isinstance(mail.message, Double)
                reply = mail.reply_to(mail.message)
                if first_is_value:
                    reply.send(1)
                    reply.fail(OutOfRange(2))
                else:
                    reply.fail(OutOfRange(1))
                reply.send(3)

    async with open_actor(Mailbox[Message]("twice"), Twice) as address:
        if first_is_value:
            assert await address.ask(Double(0)) == 1
        else:
            with pytest.raises(OutOfRange, match="1"):
                await address.ask(Double(0))


async def test_a_mailbox_that_is_closed_for_good_cannot_be_opened() -> None:
    mailbox = Mailbox[Message]("closed")
    mailbox.close()
    with pytest.raises(ActorDown, match="closed has stopped"), mailbox.open():
        raise AssertionError("opened")
    with pytest.raises(ActorDown):
        await run_incarnation(mailbox, Doubler)
    assert mailbox.statistics().incarnations == 0


async def test_a_request_in_hand_when_the_mailbox_is_closed_for_good_ends_in_actor_down() -> None:
    """Though the incarnation that holds it lives on."""
    mailbox, ends = Mailbox[Message]("doubler"), list[str]()

    async def ask() -> None:
        with pytest.raises(ActorDown, match="request in hand"):
            await mailbox.ask(Hang())
        ends.append("down")

    with mailbox.open() as inbox:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            mail = await inbox.__anext__()
            assert isinstance(mail.message, Hang)
            reply = mail.reply_to(mail.message)
            mailbox.close()
            await trio.testing.wait_all_tasks_blocked()
            assert ends == ["down"]
        reply.send(1)  # too late, and harmless

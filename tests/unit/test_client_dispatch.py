"""Replies reach those who wait for them, and only those."""

from contextlib import ExitStack

import anyio
import pytest

from brook_client.dispatch import ReplyDispatcher
from brook_client.errors import ReplyTimeoutError, ReplyUnavailableError
from brook_client.messages import ReceivedReply
from schemas.codec import encode_reply
from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey
from schemas.replies import Appended
from schemas.types import CommandId, Position

pytestmark = pytest.mark.anyio


def command(command_id: str, event_id: str = "e1") -> AppendCommand:
    return AppendCommand(
        command_id=CommandId(command_id),
        brook=BrookKey("order", "1"),
        expected="any",
        events=(NewEvent(event_id=event_id, event_type="Opened", data=b""),),
    )


def reply_to(command_id: str) -> ReceivedReply:
    reply = Appended(command_id=CommandId(command_id), first_position=Position(0), last_position=Position(1))
    return ReceivedReply(command_id=CommandId(command_id), reply=reply, body=encode_reply(reply), facts={})


async def test_a_reply_ends_the_wait_for_its_command_only() -> None:
    dispatcher = ReplyDispatcher()
    with dispatcher.expect(command("a")) as a, dispatcher.expect(command("b")) as b:
        assert dispatcher.dispatch(reply_to("a"))
        assert await dispatcher.reply(a, timeout_s=1) == reply_to("a")
        with pytest.raises(ReplyTimeoutError) as error:
            await dispatcher.reply(b, timeout_s=0.01)
    assert error.value.command_id == "b"
    assert "may still take effect" in str(error.value)
    assert "same command id is safe" in str(error.value)


async def test_all_who_wait_for_one_command_get_its_first_reply() -> None:
    dispatcher = ReplyDispatcher()
    with ExitStack() as stack:
        waiters = [stack.enter_context(dispatcher.expect(command("a"))) for _ in range(3)]
        assert dispatcher.wanted == 1
        dispatcher.dispatch(reply_to("a"))
        dispatcher.fail_all(ReplyUnavailableError("too late to matter"))
        assert [await dispatcher.reply(waiter, timeout_s=1) for waiter in waiters] == [reply_to("a")] * 3


async def test_a_reply_that_nobody_asked_for_changes_nothing() -> None:
    dispatcher = ReplyDispatcher()
    assert not dispatcher.dispatch(reply_to("a"))
    assert dispatcher.recall(command("a")) is None


async def test_a_late_reply_is_kept_for_the_same_command_asked_again() -> None:
    dispatcher = ReplyDispatcher()
    with dispatcher.expect(command("a")) as waiter, pytest.raises(ReplyTimeoutError):
        await dispatcher.reply(waiter, timeout_s=0.01)
    assert dispatcher.wanted == 0
    assert dispatcher.recall(command("a")) is None
    assert not dispatcher.dispatch(reply_to("a"))
    assert dispatcher.recall(command("a")) == reply_to("a")


async def test_another_content_under_the_same_id_is_not_answered_from_memory() -> None:
    dispatcher = ReplyDispatcher()
    with dispatcher.expect(command("a")):
        dispatcher.dispatch(reply_to("a"))
    assert dispatcher.recall(command("a", event_id="other")) is None
    with dispatcher.expect(command("a", event_id="other")):
        assert dispatcher.recall(command("a")) is None


async def test_only_so_many_replies_are_remembered() -> None:
    dispatcher = ReplyDispatcher()
    for number in range(1_001):
        with dispatcher.expect(command(f"c{number}")):
            dispatcher.dispatch(reply_to(f"c{number}"))
    assert dispatcher.recall(command("c0")) is None
    assert dispatcher.recall(command("c1")) == reply_to("c1")


async def test_listeners_hear_every_reply_while_they_listen() -> None:
    dispatcher = ReplyDispatcher()
    heard: list[CommandId] = []
    with dispatcher.listen(lambda reply: heard.append(reply.command_id)):
        assert dispatcher.has_listeners
        dispatcher.dispatch(reply_to("a"))
        dispatcher.dispatch(reply_to("a"))
    dispatcher.dispatch(reply_to("b"))
    assert heard == ["a", "a"]


async def test_of_many_commands_waited_for_at_once_all_replies_are_kept() -> None:
    """One of them is late: asked for again together, the others must not be sent a second time, whose replies a queue
    that detects duplicates would drop."""
    dispatcher = ReplyDispatcher()
    many = [command(f"c{number}") for number in range(2_500)]
    with ExitStack() as stack:
        for each in many:
            stack.enter_context(dispatcher.expect(each))
        for each in many[:-1]:
            assert dispatcher.dispatch(reply_to(each.command_id))
    assert [each for each in many if dispatcher.recall(each) is None] == many[-1:]
    for number in range(3_000):
        with dispatcher.expect(command(f"later{number}")):
            pass
    assert len(dispatcher._asked) == len(many), "it is bounded all the same"


async def test_a_listener_that_fails_keeps_no_reply_from_anybody_else(capsys: pytest.CaptureFixture[str]) -> None:
    """Its error would end the session, which brings the same reply again, and again to the same listener."""
    dispatcher = ReplyDispatcher()
    heard: list[str] = []

    def fails(_: ReceivedReply) -> None:
        raise KeyError("a bug of the program")

    with (
        dispatcher.listen(fails),
        dispatcher.listen(lambda reply: heard.append(reply.command_id)),
        dispatcher.expect(command("a")) as waiter,
    ):
        assert dispatcher.dispatch(reply_to("a"))
        assert await dispatcher.reply(waiter, timeout_s=1) == reply_to("a")
    assert heard == ["a"]
    told = capsys.readouterr().out
    assert "client.listener-failed" in told
    assert "a bug of the program" in told


async def test_a_command_that_cannot_be_encoded_leaves_no_wait_behind() -> None:
    dispatcher = ReplyDispatcher()
    with pytest.raises(UnicodeEncodeError), dispatcher.expect(command("a", event_id="\ud800")):
        pass
    assert dispatcher.wanted == 0


async def test_an_unreadable_reply_queue_ends_every_wait_with_its_reason() -> None:
    dispatcher = ReplyDispatcher()
    with dispatcher.expect(command("a")) as a, dispatcher.expect(command("b")) as b:
        dispatcher.fail_all(ReplyUnavailableError("no such queue"))
        for waiter in (a, b):
            with pytest.raises(ReplyUnavailableError, match="no such queue"):
                await dispatcher.reply(waiter, timeout_s=1)


async def test_a_timeout_tells_why_replies_could_not_be_read() -> None:
    dispatcher = ReplyDispatcher()
    dispatcher.trouble = "the reply queue cannot be read: connection refused"
    with dispatcher.expect(command("a")) as waiter, pytest.raises(ReplyTimeoutError, match="connection refused"):
        await dispatcher.reply(waiter, timeout_s=0.01)


async def test_a_reply_that_comes_while_somebody_waits_wakes_them() -> None:
    dispatcher = ReplyDispatcher()
    with dispatcher.expect(command("a")) as waiter:
        async with anyio.create_task_group() as tasks:

            async def answer() -> None:
                dispatcher.dispatch(reply_to("a"))

            tasks.start_soon(answer)
            assert (await dispatcher.reply(waiter, timeout_s=5)).command_id == "a"

"""`umbel.session`: session operations of callers, on a real worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import umbel
from support.eventually import eventually
from umbel import (
    Context,
    Event,
    HistoryUnavailable,
    SessionBusy,
    SessionClosed,
    SessionExists,
    SessionFull,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    step,
)
from umbel.orchestration.connection.keys import new_id

pytestmark = pytest.mark.usefixtures("runtime")


class Say(StartEvent):
    text: str
    waits: bool = False


class GoOn(Event):
    pass


class Chat(Workflow):
    """Adds a message to the conversation; may wait before it ends."""

    @step
    async def say(self, ev: Say, ctx: Context) -> StopEvent:
        async with ctx.store.edit_state() as state:
            if ev.text not in state.get("said", []):
                state.said = [*state.get("said", []), ev.text]
        if ev.waits:
            await ctx.wait_for_event(GoOn)
        return StopEvent(result=await ctx.store.get("said"))


class Word(StartEvent):
    text: str


class Gather(Workflow):
    """Gathers words until the last one."""

    @step
    async def gather(self, ev: Word, ctx: Context) -> StopEvent | None:
        async with ctx.store.edit_state() as state:
            state.words = [*state.get("words", []), ev.text]
            words = list(state.words)
        return StopEvent(result=words) if ev.text == "end" else None


@pytest.fixture
def session() -> umbel.Session:
    return umbel.session(f"ada {new_id()}")


async def until_said(session: umbel.Session, text: str) -> None:
    """Wait until a run has added this text to the conversation."""
    while text not in (await session.state()).get("said", []):
        await asyncio.sleep(0.01)


async def test_runs_of_a_session_share_the_state_and_have_their_turns_in_the_order_of_their_starts(
    session: umbel.Session,
) -> None:
    handlers = [Chat().run(session=session.name, text=f"{n}") for n in range(5)]

    said = await asyncio.gather(*handlers)

    assert said == [[f"{each}" for each in range(n + 1)] for n in range(5)]
    assert [each.run_id for each in session.runs()] == [each.run_id for each in reversed(handlers)]


async def test_sessions_do_not_hold_each_other_up(session: umbel.Session) -> None:
    held = session.run(Chat(), text="held", waits=True)
    await until_said(session, "held")

    assert await umbel.session(f"{session.name} 2").run(Chat(), text="other") == ["other"]

    assert not held.is_done()
    held.send_event(GoOn())
    assert await held == ["held"]


async def test_a_run_that_waits_is_queued_and_may_be_attached_to_sent_to_and_cancelled(session: umbel.Session) -> None:
    first = session.run(Chat(), text="first", waits=True)
    second, third = session.run(Chat(), text="second"), session.run(Chat(), text="third", waits=True)

    assert [each.run_id for each in session.waiting()] == [second.run_id, third.run_id]
    assert (first.status(), second.status(), third.status()) == ("running", "queued", "queued")
    assert umbel.attach(second.run_id).status() == "queued"
    assert not second.is_done()
    await third.send_event(GoOn())
    assert await second.cancel()
    with pytest.raises(WorkflowCancelledByUser):
        await second
    await first.send_event(GoOn())
    assert await third == ["first", "third"]


async def test_a_run_that_would_not_wait_is_refused(session: umbel.Session) -> None:
    held = session.run(Chat(), text="held", waits=True)

    with pytest.raises(SessionBusy, match=r"A run of session 'ada .*' is running"):
        session.run(Chat(), text="other", when_busy="reject")

    await held.send_event(GoOn())
    await held
    assert await session.run(Chat(), text="other", when_busy="reject") == ["held", "other"]


async def test_a_misspelt_way_to_start_is_refused_and_starts_nothing(session: umbel.Session) -> None:
    misspelt: Any = "reed"
    with pytest.raises(WorkflowRuntimeError, match="when_busy='reed' is not known. Choose one of: queue, reject"):
        session.run(Chat(), text="other", when_busy=misspelt)
    with pytest.raises(WorkflowRuntimeError, match="when_busy='reed' is not known"):
        Chat().run(session=session.name, text="other", when_busy=misspelt)
    with pytest.raises(WorkflowRuntimeError, match="access='reed' is not known. Choose one of: write, read, copy"):
        session.run(Chat(), text="other", access=misspelt)
    assert session.record() is None


async def test_interrupting_keeps_what_was_written_and_rolling_back_does_not(session: umbel.Session) -> None:
    held = session.run(Chat(), text="interrupted", waits=True)
    await until_said(session, "interrupted")
    assert await session.run(Chat(), text="kept", when_busy="interrupt") == ["interrupted", "kept"]
    assert held.status() == "cancelled"

    held = session.run(Chat(), text="taken back", waits=True)
    await until_said(session, "taken back")
    assert await session.run(Chat(), text="instead", when_busy="rollback") == ["interrupted", "kept", "instead"]
    assert held.status() == "cancelled"


async def test_an_event_goes_to_the_run_that_goes_on_or_starts_one(session: umbel.Session) -> None:
    first = await session.send(Word(text="a"), start=Gather())
    second = await session.send(Word(text="b"), start=Gather())
    while len((await session.state()).get("words", [])) < 2:
        await asyncio.sleep(0.01)
    third = session.run(Gather(), text="end", when_busy="join")

    assert first.run_id == second.run_id == third.run_id
    assert sorted(await third) == ["a", "b", "end"]
    again = await session.send(Word(text="end"), start=Gather())
    assert again.run_id != first.run_id
    assert (await again)[-1] == "end"


async def test_of_concurrent_sends_each_is_delivered_once(session: umbel.Session) -> None:
    handlers = await asyncio.gather(*(session.send(Word(text=f"{n}"), start=Gather()) for n in range(12)))
    assert len({each.run_id for each in handlers}) == 1

    words = await session.run(Gather(), text="end", when_busy="join")

    # Concurrent steps: all were accepted before the last one, but they may write after it.
    assert len(words) == len(set(words)) <= 13


async def test_what_cannot_start_a_run_is_not_sent(session: umbel.Session) -> None:
    with pytest.raises(WorkflowRuntimeError, match="starts with Word"):
        await session.send(GoOn(), start=Gather())


class Report(Workflow):
    """Reads the state, and may write to it."""

    @step
    async def report(self, ev: StartEvent, ctx: Context) -> StopEvent:
        if ev.get("write"):
            await ctx.store.set("said", ["by the report"])
        return StopEvent(result=await ctx.store.get("said"))


async def test_runs_on_a_copy_go_on_beside_the_one_whose_turn_it_is(session: umbel.Session) -> None:
    held = session.run(Chat(), text="held", waits=True)
    await until_said(session, "held")

    assert await session.run(Report(), access="read") == ["held"]
    assert await session.run(Report(), access="copy", write=True) == ["by the report"]
    with pytest.raises(WorkflowRuntimeError, match='was started with access="read"'):
        await session.run(Report(), access="read", write=True)

    assert (await session.state()).said == ["held"]
    assert [each.run_id for each in session.runs()] == [held.run_id]
    await held.send_event(GoOn())
    await held


async def test_the_state_can_be_read_as_of_a_version_and_put_back(session: umbel.Session) -> None:
    handlers = [session.run(Chat(), text=f"{n}") for n in range(3)]
    await asyncio.gather(*handlers)

    versions = session.versions()
    assert [version.after for version in versions] == [*(each.run_id for each in reversed(handlers)), None]
    assert (await session.state(versions[1].version)).said == ["0", "1"]
    await session.rewind(to=handlers[0])
    assert (await session.state()).said == ["0"]
    await session.rewind(to=versions[1].version)
    assert await session.run(Chat(), text="3") == ["0", "1", "3"]
    with pytest.raises(WorkflowRuntimeError, match="no version 99"):
        await session.rewind(to=99)
    with pytest.raises(WorkflowRuntimeError, match="has no run"):
        await session.rewind(to=Chat().run(text="elsewhere"))


async def test_a_state_is_not_put_back_while_a_run_goes_on(session: umbel.Session) -> None:
    held = session.run(Chat(), text="held", waits=True)
    await until_said(session, "held")

    with pytest.raises(SessionBusy, match="cannot be set back to version 0"):
        await session.rewind(to=0)

    await held.send_event(GoOn())
    await held


async def test_a_run_that_waited_for_its_turn_continues_from_before_it_with_the_state_that_it_began_with(
    session: umbel.Session,
) -> None:
    held = session.run(Chat(), text="held", waits=True)
    await until_said(session, "held")
    waited = session.run(Chat(), text="waited")
    with pytest.raises(HistoryUnavailable, match="has not had its turn in its session, so at point 1 the state"):
        await waited.fork(1)
    await held.send_event(GoOn())
    assert await waited == ["held", "waited"]

    first = await anext(waited.history())
    assert (await waited.at(first)).state() == {"said": ["held"]}
    fork = await waited.fork(first)
    await waited.rewind(first)

    assert await fork == await umbel.attach(waited.run_id) == ["held", "waited"]
    assert (await session.state()).said == ["held", "waited"]
    assert (await waited.verify()).holds
    await session.rewind(to=first)
    assert (await session.state()).said == ["held"]


async def test_a_run_that_ended_before_its_turn_does_not_continue_without_the_sessions_state(
    session: umbel.Session,
) -> None:
    held = session.run(Chat(), text="held", waits=True)
    await until_said(session, "held")
    waited = session.run(Chat(), text="waited")
    await waited.cancel()
    await held.send_event(GoOn())
    await held

    for going_on in (waited.fork, waited.rewind):
        with pytest.raises(HistoryUnavailable, match="if it ended before its turn, start a new run"):
            await going_on(1)
    assert (await session.state()).said == ["held"]


async def test_a_session_can_be_forked_at_any_of_its_runs(session: umbel.Session) -> None:
    first, second = [session.run(Chat(), text=f"{n}") for n in range(2)]
    await asyncio.gather(first, second)

    fork = await session.fork(f"{session.name} 2", at=first)

    assert (await fork.state()).said == ["0"]
    assert await fork.run(Chat(), text="else") == ["0", "else"]
    assert await session.run(Chat(), text="2") == ["0", "1", "2"]
    with pytest.raises(SessionExists, match="already"):
        await session.fork(fork.name)


async def test_the_state_can_be_edited_before_and_between_runs(session: umbel.Session) -> None:
    async with session.edit_state() as state:
        state.said = ["before"]
    assert await session.run(Chat(), text="a") == ["before", "a"]
    async with session.edit_state() as state:
        state.said = ["between"]
    assert await session.run(Chat(), text="b") == ["between", "b"]


async def test_a_closed_session_takes_no_more_runs_and_ends_those_it_has(session: umbel.Session) -> None:
    first, second = session.run(Chat(), text="first", waits=True), session.run(Chat(), text="second")

    await session.close()

    with pytest.raises(SessionClosed, match="takes no more runs"):
        session.run(Chat(), text="third")
    await first.send_event(GoOn())
    assert await second == ["first", "second"]
    record = session.record()
    assert record is not None
    assert (record.is_closed, record.status, record.waiting) == (True, "idle", 0)


async def test_a_deleted_session_leaves_nothing(session: umbel.Session, runtime: Any) -> None:
    held = session.run(Chat(), text="held", waits=True)
    with pytest.raises(SessionBusy, match="cannot be deleted"):
        await session.delete()
    await held.send_event(GoOn())
    await held

    await session.delete()

    assert session.record() is None
    assert session.runs() == []
    assert (await session.state()).to_dict() == {}
    with pytest.raises(umbel.RunNotFound):
        umbel.attach(held.run_id)
    assert await session.run(Chat(), text="anew") == ["anew"]


async def test_sessions_are_listed_by_name_and_by_what_they_do(session: umbel.Session) -> None:
    names = [f"{session.name}/{n}".replace("/", "-") for n in range(3)]
    for name in names:
        await umbel.session(name).run(Chat(), text="a")
    held = umbel.session(names[1]).run(Chat(), text="b", waits=True)

    found = umbel.sessions(session.name)

    assert [record.name for record in found] == [names[1], names[2], names[0]]
    assert [record.name for record in umbel.sessions(session.name, status="busy")] == [names[1]]
    assert {record.name for record in umbel.sessions(session.name, status="idle")} == {names[0], names[2]}
    assert len(umbel.sessions(session.name, limit=2)) == 2
    await held.cancel()


def test_without_an_event_loop_methods_block_and_return_values(session: umbel.Session) -> None:
    handler = session.run(Chat(), text="a")
    assert handler.result(timeout=30) == ["a"]
    assert session.state().said == ["a"]
    assert session.rewind(to=0) == 2
    assert session.send(Word(text="end"), start=Gather()).result(timeout=30) == ["end"]
    session.close()
    session.delete()
    assert session.record() is None


def test_a_session_is_full_when_as_many_runs_wait_as_may(session: umbel.Session, runtime: Any) -> None:
    held = session.run(Chat(), text="held", waits=True)
    for n in range(runtime.settings.session_max_waiting):
        session.run(Chat(), text=f"{n}")

    with pytest.raises(SessionFull, match="100 runs wait for their turn"):
        session.run(Chat(), text="one too many")

    for each in session.waiting():
        each.cancel()
    held.cancel()
    eventually(lambda: umbel.sessions(session.name, status="idle"), "nothing goes on")


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "x" * 129])
def test_what_no_address_can_carry_is_no_name_of_a_session(name: str) -> None:
    with pytest.raises(WorkflowRuntimeError, match="or the name of a session"):
        umbel.session(name)


def test_a_run_of_a_session_has_neither_an_id_of_its_own_nor_a_context() -> None:
    for more in ({"run_id": "mine"}, {"ctx": Context(Chat())}):
        with pytest.raises(WorkflowRuntimeError, match="was also given a run_id or a ctx"):
            Chat().run(session="ada", text="a", **more)


async def test_a_declared_field_of_a_start_event_may_be_called_session() -> None:
    class Start(StartEvent):
        session: str
        when_busy: str = ""

    class Flow(Workflow):
        @step
        async def only(self, ev: Start) -> StopEvent:
            return StopEvent(result=(ev.session, ev.when_busy))

    handler = Flow().run(session="s", when_busy="b")
    assert tuple(await handler) == ("s", "b")
    assert "." not in handler.run_id

"""Forks that reuse recorded outcomes: steps that do not depend on a change are not executed again."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest

import umbel
from support.flows.executions import EXECUTED, executed
from umbel import Collect, Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.retry_policy import retry_policy, stop_after_attempt, wait_fixed

pytestmark = pytest.mark.usefixtures("runtime")


class Begin(StartEvent):
    parts: int
    length: int


class Link(Event):
    part: int
    left: int
    value: int


class Ended(Event):
    part: int
    value: int


class Chains(Workflow):
    """Independent chains of steps, whose results are added up."""

    @step
    async def split(self, ev: Begin) -> list[Link]:
        return [Link(part=part, left=ev.length, value=part) for part in range(ev.parts)]

    @step
    async def link(self, ctx: Context[Any], ev: Link) -> Link | Ended:
        EXECUTED[ctx.run_id, ev.part] += 1
        if not ev.left:
            return Ended(part=ev.part, value=ev.value)
        return Link(part=ev.part, left=ev.left - 1, value=ev.value * 2)

    @step
    async def add(self, ctx: Context[Any], evs: Annotated[list[Ended], Collect()]) -> StopEvent:
        EXECUTED[ctx.run_id, "add"] += 1
        return StopEvent(result=sum(each.value for each in evs))


async def test_of_200_steps_with_one_event_changed_those_that_depend_on_it_are_executed() -> None:
    handler = Chains().run(parts=20, length=9)
    assert await handler == 190 * 512
    point = await handler.at("after split")
    changed = next(item for item in point.work().items if item.events[0].field("part") == 7)

    fork = await handler.fork(point, events={changed.work_id: {"value": 1007}}, reuse="recorded")

    assert await fork == 190 * 512 + 1000 * 512
    assert executed(fork.run_id) == {7: 10, "add": 1}
    assert (await fork.verify()).holds


# -- side effects of a step ------------------------------------------------------------------------------------------


class Asked(Event):
    n: int


class Answer(umbel.HumanResponseEvent):
    text: str


class Counted(Event):
    n: int


class Manifold(Workflow):
    """Sends, reads and writes the whole state, and asks."""

    @step
    async def begin(self, ctx: Context[Any], ev: StartEvent) -> Asked:
        return Asked(n=1)

    @step
    async def count(self, ctx: Context[Any], ev: Asked) -> Counted | None:
        EXECUTED[ctx.run_id, "count"] += 1
        async with ctx.store.edit_state() as state:
            state["n"] = state.get("n", 0) + ev.n
        await ctx.store.set("last", await ctx.store.get("n"))
        ctx.send_event(Counted(n=ev.n))  # is delivered at once, and read by a step that needs what was written

    @step
    async def ask(self, ctx: Context[Any], ev: Counted) -> StopEvent:
        EXECUTED[ctx.run_id, "ask"] += 1
        answer = await ctx.wait_for_event(Answer, waiter_event=Question(n=ev.n))
        return StopEvent(result=[answer.text, await ctx.store.get("last"), ctx.idempotency_key])


class Question(umbel.InputRequiredEvent):
    n: int


async def answered_run() -> umbel.WorkflowHandler:
    handler = Manifold().run()
    async for event in handler.stream_events():
        if isinstance(event, Question):
            await asyncio.to_thread(handler.send_event, Answer(text="yes"))
    await handler
    return handler


async def test_what_a_step_has_sent_and_written_is_taken_too_and_recorded_answers_are_not_asked_for() -> None:
    handler = await answered_run()

    fork = await handler.fork("after begin", reuse="recorded", answers="recorded", keep_idempotency_keys=True)

    assert await fork == await handler
    assert executed(fork.run_id) == {"ask": 1}
    assert not [event async for event in fork.stream_events() if isinstance(event, Question)]
    assert (await fork.verify()).holds


async def test_a_wait_that_is_open_at_the_point_is_answered_too() -> None:
    handler = await answered_run()
    outcomes = [point async for point in handler.history(step="ask", kinds=["commit"])]
    assert [point.outcome for point in outcomes] == ["suspended", "returned"]

    fork = await handler.fork(outcomes[0], answers="recorded")

    assert (await fork)[:2] == ["yes", 1]
    assert (await fork.verify()).holds


async def test_a_state_that_was_read_is_compared() -> None:
    handler = await answered_run()

    fork = await handler.fork("after begin", state={"unrelated": 1}, reuse="recorded", answers="recorded")

    assert (await fork)[:2] == ["yes", 1]
    assert executed(fork.run_id) == {"count": 1, "ask": 1}  # edit_state() reads the whole state


async def test_a_fork_of_a_fork_takes_what_that_one_has_taken() -> None:
    handler = Chains().run(parts=2, length=3)
    await handler
    fork = await handler.fork("after split", reuse="recorded")
    await fork

    begun = [point async for point in fork.history(kinds=["start"])]
    with pytest.raises(umbel.HistoryUnavailable, match="had not begun at point 1"):
        await fork.fork(1)

    second = await fork.fork(begun[0], reuse="recorded")

    assert await second == await handler
    assert executed(fork.run_id) == executed(second.run_id) == {}


async def test_options_that_do_not_exist_are_refused() -> None:
    handler = Chains().run(parts=1, length=0)
    await handler

    with pytest.raises(umbel.WorkflowRuntimeError, match="reuse must be 'none' or 'recorded'; got 'all'"):
        await handler.fork(1, reuse="all")


async def test_a_fork_may_begin_a_session_which_has_its_state() -> None:
    handler = await answered_run()

    fork = await handler.fork("after begin", session="forked", answers="recorded")
    await fork

    session = umbel.session("forked")
    assert [each.run_id for each in await asyncio.to_thread(session.runs)] == [fork.run_id]
    assert (await session.state()).to_dict() == {"n": 1, "last": 1}
    with pytest.raises(umbel.SessionExists):
        await handler.fork("after begin", session="forked")


# -- steps that are executed because they may differ -----------------------------------------------------------------


class Race(StartEvent):
    pass


class Reads(Event):
    pass


class Writes(Event):
    pass


class Side(Event):
    of: str
    text: str


WRITTEN: dict[str, asyncio.Event] = {}


class Racing(Workflow):
    """One step reads a key after a concurrent one has written it."""

    @step
    async def begin(self, ctx: Context[Any], ev: Race) -> list[Reads | Writes]:
        WRITTEN.setdefault("racing", asyncio.Event())
        return [Reads(), Writes()]

    @step
    async def read(self, ctx: Context[Any], ev: Reads) -> Side:
        EXECUTED[ctx.run_id, "read"] += 1
        await WRITTEN["racing"].wait()
        return Side(of="read", text=str(await ctx.store.get("key", None)))

    @step
    async def write(self, ctx: Context[Any], ev: Writes) -> Side:
        EXECUTED[ctx.run_id, "write"] += 1
        await ctx.store.set("key", "written")
        WRITTEN["racing"].set()
        return Side(of="write", text="")

    @step
    async def end(self, ctx: Context[Any], evs: Annotated[list[Side], Collect()]) -> StopEvent:
        EXECUTED[ctx.run_id, "end"] += 1
        return StopEvent(result=sorted(each.text for each in evs))


async def test_what_was_read_while_another_step_wrote_it_is_executed() -> None:
    handler = Racing().run()
    assert await handler == ["", "written"]

    fork = await handler.fork("after begin", reuse="recorded")

    await fork
    assert "write" not in executed(fork.run_id)
    assert executed(fork.run_id)["read"] == 1


class Tried(Event):
    pass


class Trying(Workflow):
    """Fails at first, keeps a value, collects events, in async and plain steps."""

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    def fail(self, ctx: Context[Any], ev: StartEvent) -> Tried:
        EXECUTED[ctx.run_id, "fail"] += 1
        if ctx.attempt == 1 and not ctx.store.get("patient", False):
            raise ValueError("at first")
        return Tried()

    @step
    async def once(self, ctx: Context[Any], ev: Tried) -> Reads:
        EXECUTED[ctx.run_id, "once"] += 1
        await ctx.once("value", lambda: 7)
        return Reads()

    @step
    async def gather(self, ctx: Context[Any], ev: Reads) -> StopEvent | None:
        EXECUTED[ctx.run_id, "gather"] += 1
        found = ctx.collect_events(ev, [Reads])
        return None if found is None else StopEvent(result=await ctx.store.get("patient", None))


async def test_retried_steps_and_kept_values_are_taken_and_collected_events_are_executed() -> None:
    handler = Trying().run()
    await handler

    fork = await handler.fork(1, reuse="recorded")
    await fork
    assert executed(fork.run_id) == {"gather": 1}

    changed = await handler.fork(1, reuse="recorded", state={"patient": True})
    assert await changed is True
    assert executed(changed.run_id) == {"fail": 1, "gather": 1}


class Left(Event):
    n: int


class Right(Event):
    n: int


class More(Event):
    pass


BOTH: dict[str, asyncio.Event] = {}


class Pairs(Workflow):
    """The first pair waits for the second one, which arrives after the point."""

    @step
    async def begin(self, ctx: Context[Any], ev: StartEvent) -> Left | Right | More | None:
        for event in (Left(n=1), Right(n=1), More()):
            ctx.send_event(event)
        return None

    @step
    async def more(self, ctx: Context[Any], ev: More) -> Left | Right | None:
        ctx.send_event(Left(n=2))
        ctx.send_event(Right(n=2))
        return None

    @step
    async def pair(self, ctx: Context[Any], left: Left, right: Right) -> StopEvent | None:
        EXECUTED[ctx.run_id, (left.n, right.n)] += 1
        second = BOTH.setdefault(ctx.run_id, asyncio.Event())
        if left.n == 2:
            second.set()
            return None
        await second.wait()
        return StopEvent(result=(left.n, right.n))


async def test_a_set_that_a_join_makes_after_the_point_is_another_one_than_those_before() -> None:
    handler = Pairs().run()
    await handler

    fork = await handler.fork("after begin")
    await handler.rewind("after begin")

    assert list(await fork) == list(await umbel.attach(handler.run_id)) == [1, 1]
    assert executed(fork.run_id) == {(1, 1): 1, (2, 2): 1}
    assert (await fork.verify()).holds
    assert (await handler.verify()).holds

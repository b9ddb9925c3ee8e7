"""The past of runs on a real worker: listed, inspected, forked, rewound."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Annotated, Any

import pytest

import umbel
from support.eventually import eventually, eventually_async
from umbel import (
    Collect,
    Context,
    ContextSerdeError,
    Event,
    HistoryUnavailable,
    HumanResponseEvent,
    RunError,
    RunForked,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowRewound,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    step,
)
from umbel.orchestration.connection.keys import new_id

pytestmark = pytest.mark.usefixtures("runtime")

#: How often each step was executed, by run and step name.
EXECUTED: Counter[tuple[str, str]] = Counter()
GATES: dict[str, asyncio.Event] = {}


class Order(StartEvent):
    amount: int


class Checked(Event):
    amount: int


class Charged(Event):
    amount: int


class Pipeline(Workflow):
    @step
    async def check(self, ctx: Context[Any], ev: Order) -> Checked:
        EXECUTED[ctx.run_id, "check"] += 1
        await ctx.store.set("checked", ev.amount)
        return Checked(amount=ev.amount)

    @step
    async def charge(self, ctx: Context[Any], ev: Checked) -> Charged:
        EXECUTED[ctx.run_id, "charge"] += 1
        if ev.amount < 0:
            raise ValueError(f"cannot charge {ev.amount}")
        await ctx.store.set("charged", ev.amount)
        return Charged(amount=ev.amount)

    @step
    async def ship(self, ctx: Context[Any], ev: Charged) -> StopEvent:
        EXECUTED[ctx.run_id, "ship"] += 1
        checked = await ctx.store.get("checked")
        return StopEvent(result=[checked, ev.amount, ctx.idempotency_key, ctx.forked_from])


async def ended(**fields: Any) -> umbel.WorkflowHandler:
    handler = Pipeline().run(**fields)
    with contextlib.suppress(ValueError):
        await handler
    return handler


async def test_the_history_names_each_change_by_step_and_attempt() -> None:
    handler = await ended(amount=3)

    found = [point async for point in handler.history()]

    assert [point.seq for point in found] == list(range(1, len(found) + 1))
    kinds = [(point.kind, point.step) for point in found if point.kind != "claim"]
    assert kinds == [
        ("start", ""),
        ("state", "check"),
        ("commit", "check"),
        ("state", "charge"),
        ("commit", "charge"),
        ("commit", "ship"),
    ]
    assert [point.state_version for point in found if point.kind == "state"] == [1, 2]
    assert all(point.worker for point in found if point.kind == "commit")
    commits = [str(point) async for point in handler.history(kinds=["commit"], newest_first=True)]
    assert commits[0].endswith("commit ship attempt 1")


async def test_a_run_can_be_looked_at_before_and_after_each_outcome() -> None:
    handler = await ended(amount=3)

    before = await handler.at("before charge")
    after = await handler.at(step="charge")

    assert before.state() == {"checked": 3}
    assert after.state() == {"checked": 3, "charged": 3}
    assert before.diff(after) == [{"op": "add", "path": "/charged", "value": 3}]
    assert [item.step for item in before.work().items] == ["charge"]
    assert [item.step for item in after.work().items] == ["ship"]
    assert (await handler.at(event=Checked)).state() == {"checked": 3}
    assert before.to_dict()["umbel"]


async def test_points_that_do_not_exist_are_refused_with_what_there_is() -> None:
    handler = await ended(amount=3)

    with pytest.raises(HistoryUnavailable, match="has no point 999: its history is kept from 1 to"):
        await handler.at(999)
    with pytest.raises(HistoryUnavailable, match="has 1 points at which step 'charge' had an outcome; number 2"):
        await handler.at("before charge#2")
    with pytest.raises(HistoryUnavailable, match="is not a point"):
        await handler.at("somewhere")


async def test_a_fork_executes_what_comes_after_its_point_with_what_was_changed() -> None:
    handler = await ended(amount=-1)
    assert handler.status() == "failed"

    fork = await handler.fork("before charge", events={"charge": Checked(amount=7)}, state={"checked": 8})

    assert (await fork)[:2] == [8, 7]
    assert (await fork)[3] == handler.run_id
    assert EXECUTED[fork.run_id, "check"] == 0
    assert (EXECUTED[fork.run_id, "charge"], EXECUTED[fork.run_id, "ship"]) == (1, 1)
    events = [event async for event in fork.stream_events(expose_internal=True)]
    forked = next(event for event in events if isinstance(event, RunForked))
    assert forked.run_id == handler.run_id
    assert (await fork.verify()).holds
    assert (await handler.verify()).holds


async def test_edits_that_do_not_fit_leave_no_run() -> None:
    handler = await ended(amount=3)

    with pytest.raises(WorkflowRuntimeError, match=r"does not accept .*Charged; it accepts .*Checked"):
        await handler.fork("before charge", run_id="never-begun", events={"charge": Charged(amount=1)})
    with pytest.raises(WorkflowRuntimeError, match="does not name exactly one work item"):
        await handler.fork("before charge", run_id="never-begun", events={"ship": Charged(amount=1)})
    with pytest.raises(WorkflowRuntimeError, match="The patch does not fit"):
        await handler.fork("before charge", run_id="never-begun", state=[{"op": "remove", "path": "/nothing"}])
    with pytest.raises(HistoryUnavailable, match="had already ended at point"):
        await handler.fork(step_end(handler), run_id="never-begun")
    with pytest.raises(umbel.RunNotFound):
        umbel.attach("never-begun")


def step_end(handler: umbel.WorkflowHandler) -> str:
    return "after ship"


async def test_a_failed_run_that_is_put_back_goes_on_under_its_id() -> None:
    handler = await ended(amount=-1)

    await handler.rewind("before charge", events={"charge": Checked(amount=5)})

    result = await umbel.attach(handler.run_id)
    assert result[:2] == [-1, 5]
    assert result[2].endswith("/1")
    assert EXECUTED[handler.run_id, "check"] == 1
    events = [event async for event in umbel.attach(handler.run_id).stream_events(expose_internal=True)]
    assert any(isinstance(event, WorkflowRewound) for event in events)
    assert (await handler.verify()).holds
    assert [point.branch async for point in handler.history(kinds=["commit"])] == [0, 0, 1, 1]


class Answer(StartEvent):
    number: int
    asks: bool = False


class Answers(Workflow):
    @step
    async def answer(self, ctx: Context[Any], ev: Answer) -> StopEvent:
        if ev.asks:
            await ctx.wait_for_event(HumanResponseEvent)
        return StopEvent(result=ev.number)


def two_in_one_shard(runtime: Runtime) -> tuple[str, str]:
    """Return ids of runs to come whose ends are announced on the same channel."""
    seen: dict[int, str] = {}
    while True:
        run_id = new_id()
        shard = runtime.store.locate(run_id).shard
        if shard in seen:
            return seen[shard], run_id
        seen[shard] = run_id


@pytest.mark.parametrize("by_another", [False, True])
async def test_no_handler_of_a_completed_run_that_is_put_back_gives_its_former_result(
    runtime: Runtime, by_another: bool
) -> None:
    first_id, run_id = two_in_one_shard(runtime)
    await Answers().run(run_id=first_id, number=0)  # from now on, this process receives the ends in the shard
    handler = Answers().run(run_id=run_id, number=1)
    assert await handler == 1
    rewinding = umbel.attach(handler.run_id) if by_another else handler

    await rewinding.rewind(1, events={"answer": {"number": 2, "asks": True}})

    results = asyncio.gather(handler, asyncio.to_thread(handler.result), rewinding.stop_event_result())
    await eventually_async(lambda: [*handler.history(kinds=["commit"])][-1].outcome == "suspended", "it waits")
    assert not results.done()
    await handler.send_event(HumanResponseEvent())
    first, second, stop = await results
    assert first == second == stop.result == await handler == 2


class Waits(Workflow):
    @step
    async def begin(self, ctx: Context[Any], ev: StartEvent) -> StopEvent:
        EXECUTED[ctx.run_id, "begin"] += 1
        gate = GATES.get(ctx.run_id)
        if EXECUTED[ctx.run_id, "begin"] == 1 and gate is not None:
            await gate.wait()
            await ctx.store.set("late", True)
        return StopEvent(result=EXECUTED[ctx.run_id, "begin"])


async def test_a_running_run_is_put_back_only_on_demand_and_its_old_attempt_writes_nothing() -> None:
    gate = GATES["put-back"] = asyncio.Event()
    handler = Waits().run(run_id="put-back")
    await asyncio.to_thread(eventually, lambda: EXECUTED["put-back", "begin"] == 1, "the first attempt goes on")

    with pytest.raises(RunError, match="is running; rewind it with stop_running=True"):
        await handler.rewind(1)
    await handler.rewind(1, stop_running=True)
    assert await handler == 2
    gate.set()

    assert (await handler.verify()).holds
    assert "late" not in (await handler.ctx.store.get_state()).to_dict()


class Part(Event):
    n: int


class Done(Event):
    n: int


class FanOut(Workflow):
    @step
    async def split(self, ev: Order) -> list[Part]:
        return [Part(n=n) for n in range(ev.amount)]

    @step(num_workers=20)
    async def work(self, ctx: Context[Any], ev: Part) -> Done:
        EXECUTED[ctx.run_id, "work"] += 1
        return Done(n=ev.n)

    @step
    async def gather(self, ctx: Context[Any], evs: Annotated[list[Done], Collect()]) -> StopEvent:
        EXECUTED[ctx.run_id, "gather"] += 1
        return StopEvent(result=sorted(each.n for each in evs))


async def test_a_fork_in_the_middle_of_a_fan_out_of_1000_executes_only_what_had_not_ended_and_joins_all_once() -> None:
    handler = FanOut().run(amount=1000)
    await handler
    outcomes = [point async for point in handler.history(step="work", kinds=["commit"])]

    fork = await handler.fork(outcomes[499])

    assert await fork == list(range(1000))
    assert EXECUTED[fork.run_id, "work"] == 500
    assert EXECUTED[fork.run_id, "gather"] == 1
    assert (await fork.verify()).holds


def test_without_an_event_loop_all_of_it_blocks() -> None:
    handler = Pipeline().run(amount=2)
    handler.result()

    assert [point.step for point in handler.history(kinds=["commit"])] == ["check", "charge", "ship"]
    assert handler.at("before ship").state() == {"checked": 2, "charged": 2}
    assert handler.verify().holds
    assert handler.fork("before ship").result()[:2] == [2, 2]


async def test_a_run_is_restored_behind_any_of_its_changes_by_the_names_of_the_peer(runtime: Runtime) -> None:
    handler = await ended(amount=3)
    records = runtime.journal(handler.run_id)
    checked = next(place for place, point in enumerate(records) if (point.kind, point.step) == ("commit", "check"))

    ctx = runtime.restore(Pipeline(), None, records[: checked + 1])
    assert runtime.restore(Pipeline(), ctx.to_dict()).is_running
    again = Pipeline().run(ctx=ctx)

    assert records == [point async for point in handler.history()]
    assert (await again)[:2] == [3, 3]
    assert EXECUTED[again.run_id, "check"] == 0
    with pytest.raises(ContextSerdeError, match="nothing to restore from"):
        runtime.restore(Pipeline())


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), True, "3"])
async def test_a_time_limit_that_is_none_is_refused(seconds: Any) -> None:
    handler = await ended(amount=3)

    with pytest.raises(WorkflowRuntimeError, match="timeout_seconds must be a number of seconds from 0"):
        await handler.fork("before ship", timeout_seconds=seconds)
    with pytest.raises(WorkflowRuntimeError, match="timeout_seconds must be a number of seconds from 0"):
        await handler.rewind("before ship", timeout_seconds=seconds)


async def test_a_run_whose_limit_is_not_its_workflows_says_when_it_is_over(runtime: Runtime) -> None:
    class Patient(Workflow, timeout=None):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(HumanResponseEvent)).response)

    handler = Patient().run()
    await eventually_async(lambda: any(each.kind == "commit" for each in runtime.journal(handler.run_id)), "it waits")
    forked = await handler.fork("before ask", timeout_seconds=0.1)
    with pytest.raises(WorkflowTimeoutError, match=r"0\.1"):
        await forked
    await handler.rewind("before ask", timeout_seconds=0.1, stop_running=True)
    with pytest.raises(WorkflowTimeoutError):
        await handler

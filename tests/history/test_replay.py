"""Recorded steps, executed again with changed code, and compared with the record."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any

import pytest

import umbel
from umbel import (
    Collect,
    Context,
    Event,
    HumanResponseEvent,
    ReplayReport,
    Runtime,
    Settings,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from umbel.orchestration.history.packing.chunks import checkpoint_run
from umbel.orchestration.store.verbs import Store

pytestmark = pytest.mark.usefixtures("runtime")

CALLS: list[str] = []
GATES: dict[str, asyncio.Event] = {}


class Part(Event):
    n: int


class Counted(Event):
    n: int


class Note(Event):
    text: str


class Sum(Event):
    total: int


class Approve(HumanResponseEvent):
    who: str


class Doubled(StopEvent):
    n: int


class Child(Workflow):
    @step
    async def double(self, ev: StartEvent) -> Doubled:
        return Doubled(n=2 * ev.n)


class Everything(Workflow):
    """Uses a bit of everything that a step can do; `otherwise` says in what its code has changed."""

    def __init__(self, *otherwise: str, **options: Any) -> None:
        super().__init__(**options)
        self.otherwise = otherwise

    def now(self, what: str, before: Any, after: Any) -> Any:
        return after if what in self.otherwise else before

    @step
    async def split(self, ctx: Context[Any], ev: StartEvent) -> list[Part] | Note:
        ctx.send_event(Note(text=self.now("sent", "first", "other")))
        ctx.write_event_to_stream(Note(text=self.now("streamed", "progress", "other")))
        await ctx.store.set("begun", self.now("state", True, False))
        return [Part(n=n) for n in range(self.now("parts", 3, 2))]

    @step(retries=2)
    async def count(self, ctx: Context[Any], ev: Part) -> Counted:
        CALLS.append("count")
        async with ctx.store.edit_state() as state:
            state["seen"] = [*state.get("seen", []), ev.n]
        await ctx.once("computed", lambda: CALLS.append("computed"))
        if ev.n == 1 and ctx.attempt == 1:
            raise ValueError(self.now("failed", "not yet", "never"))
        return Counted(n=self.now("returned", ev.n, ev.n + 10))

    @step
    def note(self, ctx: Context[Any], ev: Note) -> None:
        ctx.store.set(f"note.{ev.text}", True)

    @step
    async def pair(self, ctx: Context[Any], ev: Counted) -> None:
        ctx.collect_events(ev, [Counted, Counted, Counted])

    @step
    async def join(self, evs: Annotated[list[Counted], Collect()]) -> Sum:
        return Sum(total=sum(ev.n for ev in evs))

    @step
    async def finish(self, ctx: Context[Any], ev: Sum) -> StopEvent:
        asked = self.now("waits", {"who": "ada"}, {"who": "bob"})
        answer = await ctx.wait_for_event(Approve, waiter_event=Note(text="?"), requirements=asked)
        child = await ctx.run(Child(), n=ev.total)
        return StopEvent(result=[answer.who, child.n])


async def suspended(handler: umbel.WorkflowHandler) -> None:
    while "suspended" not in [point.outcome async for point in handler.history(step="finish")]:
        await asyncio.sleep(0.01)


async def ended(**fields: Any) -> umbel.WorkflowHandler:
    handler = Everything().run(**fields)
    await suspended(handler)
    await handler.send_event(Approve(who="ada"))
    assert await handler == ["ada", 6]
    return handler


def kinds(report: ReplayReport) -> set[tuple[str, str]]:
    return {(mismatch.at.step, mismatch.what) for mismatch in report.mismatches}


async def test_the_same_code_does_what_is_recorded_and_nothing_is_computed_again_that_is_kept() -> None:
    handler = await ended()
    outcomes = [point async for point in handler.history(kinds=["commit"])]
    CALLS.clear()

    report = await umbel.replay(handler)

    assert (report.mismatches, report.not_replayed) == ((), ())
    assert report.holds
    assert report.equal == len(outcomes) == 13
    assert report.runs == (handler.run_id,)
    assert CALLS == ["count"] * 4


#: A change of the code of `Everything` -> what a replay reports.
DIFFERENCES = {
    "sent": ("split", "sent"),
    "streamed": ("split", "streamed"),
    "state": ("split", "state"),
    "parts": ("split", "returned"),
    "returned": ("count", "returned"),
    "failed": ("count", "failed"),
}


async def test_what_other_code_does_otherwise_is_named_with_both_values() -> None:
    handler = await ended()

    for otherwise, found in DIFFERENCES.items():
        report = await umbel.replay(handler.run_id, workflow=Everything(otherwise))
        assert (kinds(report), report.not_replayed) == ({found}, ()), otherwise
        assert not report.holds

    waits = (await umbel.replay(handler, workflow=Everything("waits"))).mismatches
    assert [each.what for each in waits][:2] == ["waits", "outcome"], "and so it does not find its answer"
    assert [each.recorded["requirements"] for each in waits[:1]] == [{"who": "ada"}]
    [first, second] = (await umbel.replay(handler, workflow=Everything("sent", "failed"))).mismatches
    assert (first.recorded["value"], first.replayed["value"]) == ({"text": "first"}, {"text": "other"})
    assert (second.at.attempt, second.recorded, second.replayed) == (
        1,
        "builtins.ValueError: not yet",
        "builtins.ValueError: never",
    )
    assert "count attempt 1: failed" in str(second)


async def test_the_result_alone_can_be_compared() -> None:
    handler = await ended()

    report = await umbel.replay(handler, workflow=Everything("sent", "streamed", "state", "returned"), compare="result")

    assert kinds(report) == {("count", "returned")}


class Raises(Workflow):
    broken = True

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        if self.broken:
            raise ValueError("broken")
        return StopEvent(result=1)


class Repaired(Raises):
    broken = False


def test_without_an_event_loop_it_blocks_and_names_another_outcome() -> None:
    handler = Raises().run()
    with pytest.raises(ValueError, match="broken"):
        handler.result()

    report = umbel.replay([handler, handler.run_id], workflow=Repaired)

    assert umbel.replay(handler).holds
    assert [mismatch.what for mismatch in report.mismatches] == ["outcome"] * 2
    assert report.mismatches[0].recorded == {"outcome": "failed", "error": "builtins.ValueError: broken"}
    assert report.mismatches[0].replayed["returned"][0]["value"] == {"result": 1}


async def test_nothing_is_written(runtime: Runtime) -> None:
    handler = await ended()

    async def kept() -> dict[bytes, bytes]:
        keys = sorted(await runtime.store.command("test", "KEYS", f"*{handler.run_id}*"))
        return dict(zip(keys, await runtime.store.batch("test", *(("DUMP", key) for key in keys)), strict=True))

    before = await kept()
    await umbel.replay(handler, workflow=Everything("sent", "state", "streamed"))

    assert len(before) > 3
    assert await kept() == before


class Begun(Event):
    name: str


class Race(Workflow):
    """One step reads a state key while another one writes it."""

    @step
    async def begin(self, ev: StartEvent) -> list[Begun]:
        return [Begun(name="reader"), Begun(name="writer")]

    @step
    async def act(self, ctx: Context[Any], ev: Begun) -> Sum:
        reading = GATES.setdefault(f"{ctx.run_id} reading", asyncio.Event())
        written = GATES.setdefault(f"{ctx.run_id} written", asyncio.Event())
        if ev.name == "writer":
            await reading.wait()
            await ctx.store.set("n", 1)
            written.set()
            return Sum(total=0)
        reading.set()
        await written.wait()
        return Sum(total=await ctx.store.get("n", 0))

    @step
    async def join(self, evs: Annotated[list[Sum], Collect()]) -> StopEvent:
        return StopEvent()


async def test_what_a_step_may_have_read_before_or_after_another_one_wrote_is_not_counted_as_equal() -> None:
    handler = Race().run()
    await handler

    report = await umbel.replay(handler)

    [unknown] = report.not_replayed
    assert unknown.at.step == "act"
    assert unknown.reason == "another step wrote 'n' to the state while it was executing"
    assert (report.equal, report.mismatches) == (3, ())


class Wide(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> list[Counted]:
        return [Counted(n=n) for n in range(300)]

    @step
    async def join(self, evs: Annotated[list[Counted], Collect()]) -> StopEvent:
        return StopEvent(result=sum(ev.n for ev in evs))


class Wider(Wide):
    @step
    async def begin(self, ev: StartEvent) -> list[Counted]:
        return [Counted(n=n if n != 299 else 0) for n in range(300)]


async def test_large_fan_outs_and_what_goes_on_from_a_point_are_replayed() -> None:
    handler = Wide().run()
    await handler
    fork = await handler.fork("after begin")
    await fork

    assert await umbel.replay([handler, fork]) == ReplayReport((handler.run_id, fork.run_id), equal=3)
    [other] = (await umbel.replay(handler, workflow=Wider)).mismatches
    assert (other.recorded["value"], other.replayed["value"]) == ({"n": 299}, {"n": 0})


async def test_outcomes_that_a_fork_has_taken_are_replayed_where_they_were_recorded() -> None:
    handler = await ended()
    fork = await handler.fork("after split", reuse="recorded", answers="recorded")
    assert await fork == ["ada", 6]

    report = await umbel.replay(fork)

    reasons = {each.reason.partition(":")[0] for each in report.not_replayed}
    assert reasons == {
        "the step was not executed",
        "its answers came from the run that it was forked from, and are no longer kept",
    }
    assert (report.equal > 0, report.mismatches) == (True, ())


class InPlace(Workflow):
    """Its steps change state values in place."""

    writes_back = True

    @step
    async def put(self, ctx: Context[Any], ev: StartEvent) -> Note:
        await ctx.store.set("texts", ["a"])
        return Note(text="b")

    @step
    async def add(self, ctx: Context[Any], ev: Note) -> StopEvent:
        texts = await ctx.store.get("texts")
        texts.append(ev.text)
        async with ctx.store.edit_state() as state:
            state["edited"] = True
        return StopEvent(result=texts)


async def test_values_that_were_changed_in_place_are_compared() -> None:
    handler = InPlace().run()
    assert await handler == ["a", "b"]

    report = await umbel.replay(handler)

    assert (report.equal, report.mismatches, report.not_replayed) == (2, (), ())


async def test_of_a_history_that_is_not_kept_whole_the_rest_is_replayed(runtime: Runtime) -> None:
    handler = Everything().run()
    await suspended(handler)
    kept = Store(runtime.store.connection, runtime.settings.model_copy(update={"history_keep": "last:1"}))
    await runtime.portal.run(checkpoint_run(kept, handler.run_id))
    await handler.ctx.store.set("seen", [])
    await runtime.portal.run(checkpoint_run(kept, handler.run_id))
    await handler.send_event(Approve(who="ada"))
    assert await handler == ["ada", 6]

    report = await umbel.replay(handler, workflow=Everything("waits"))

    assert runtime.journal(handler.run_id)[0].seq > 1
    assert (report.equal, report.not_replayed) == (0, ())
    assert [each.at.step for each in report.mismatches if each.what == "outcome"] == ["finish"] * 2
    assert await umbel.replay(handler) == ReplayReport((handler.run_id,), equal=2)


class Less(Workflow):
    @step
    async def other(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


async def test_what_cannot_be_replayed_is_listed_with_the_reason(runtime: Runtime) -> None:
    handler = Raises().run()
    forgetful = Runtime(runtime.settings.model_copy(update={"history": "summary"}))
    summary = forgetful.start(Raises(), StartEvent(), timeout_seconds=600)
    for each in (handler, umbel.attach(summary.run_id)):
        with contextlib.suppress(ValueError):
            await each

    report = await umbel.replay([handler, summary.run_id, "nobody"], workflow=Less)
    stranger = Runtime(Settings(redis_url=runtime.settings.redis_url))
    unloaded = await umbel.replay(handler, runtime=stranger)
    forgetful.close()
    stranger.close()

    assert [each.at.seq > 0 for each in report.not_replayed] == [True, False, False]
    reasons = [each.reason for each in report.not_replayed]
    assert "has no step 'only' any more" in reasons[0]
    assert "history='summary'" in reasons[1]
    assert "nobody" in reasons[2]
    assert (report.equal, report.holds) == (0, True)
    assert "is not loaded here: import it, or give workflow=" in unloaded.not_replayed[0].reason

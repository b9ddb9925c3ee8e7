"""Drawings of past runs, made from the journal by anyone who knows the run's id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import umbel
from umbel import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    catch_error,
    retry_policy,
    step,
)
from umbel.orchestration.inspection.run_trace import OUTSIDE, START, STOP, PastRun, past_run
from umbel.orchestration.model.errors import RunNotFound
from umbel.orchestration.store.replies import pairs
from umbel.orchestration.store.scripts import pack, unpack
from umbel.tasks.drawing.draw import draw_most_recent_execution, draw_most_recent_execution_mermaid
from umbel.tasks.drawing.run_picture import run_picture
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed

pytestmark = pytest.mark.usefixtures("runtime")

TIMES = "\N{MULTIPLICATION SIGN}"


class Line(Event):
    n: int


class Priced(Event):
    n: int


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    pass


class Order(Workflow):
    """A fan-out with a retry and a recovered failure, gathered again, and a wait."""

    @step
    async def split(self, ev: StartEvent) -> list[Line]:
        return [Line(n=n) for n in range(ev.n)]

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
    async def price(self, ctx: Context, ev: Line) -> Priced:
        if ev.n == 2 or (ev.n == 1 and ctx.attempt == 1):
            raise ConnectionError("no <price> list")
        return Priced(n=ev.n)

    @catch_error
    async def rescue(self, ev: StepFailedEvent) -> Priced:
        return Priced(n=0)

    @step
    async def total(self, ctx: Context, evs: list[Priced]) -> StopEvent:
        await ctx.wait_for_event(Answer, waiter_event=Ask())
        return StopEvent(result=len(evs))


class Loop(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Line:
        return Line(n=ev.n)

    @step
    async def down(self, ev: Line) -> Line | StopEvent:
        return Line(n=ev.n - 1) if ev.n else StopEvent(result="down")


def hops(run: PastRun) -> Counter[tuple[str, str, str]]:
    """Return how often events led from step to step."""
    found: Counter[tuple[str, str, str]] = Counter()
    for hop, count in run.hops.items():
        ends = [run.steps.get(end, end) for end in (hop.source, hop.target)]
        found[ends[0], hop.event.rpartition(".")[2], ends[1]] += count
    return found


def boxes(run: PastRun, **options: Any) -> dict[str, list[str]]:
    """Return the labels of the boxes, by look."""
    found: dict[str, list[str]] = {}
    for box in run_picture(run, **options).boxes:
        found.setdefault(box.look, []).append(box.label)
    return found


async def ordered(n: int) -> str:
    """Return the id of an `Order` that has ended."""
    handler = Order().run(n=n)
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            await handler.send_event(Answer())
    assert await handler == n
    return handler.run_id


async def test_a_run_is_drawn_from_its_id_alone(tmp_path: Path) -> None:
    run_id = await ordered(4)

    draw_most_recent_execution(umbel.attach(run_id), tmp_path / "run.html")

    page = (tmp_path / "run.html").read_text()
    assert run_id in page
    assert "<dt>Status</dt><dd>completed</dd>" in page
    assert page.count(">price</text>") == 4
    assert "failed, retried: ConnectionError: no &lt;price&gt; list" in page
    assert "attempt 2" in page
    assert "waited" in page


async def test_events_lead_from_one_work_item_to_the_next(runtime: Any) -> None:
    run = await past_run(runtime.store, await ordered(4))

    assert hops(run) == {
        (START, "StartEvent", "split"): 1,
        ("split", "Line", "price"): 4,
        ("price", "Priced", "total"): 3,
        ("price", "StepFailedEvent", "rescue"): 1,
        ("rescue", "Priced", "total"): 1,
        ("total", "Ask", OUTSIDE): 1,
        (OUTSIDE, "Answer", "total"): 1,
        ("total", "StopEvent", STOP): 1,
    }
    assert run.is_complete


async def test_a_loop_is_unrolled(runtime: Any) -> None:
    handler = Loop().run(n=3)
    await handler

    chart = draw_most_recent_execution_mermaid(handler)

    assert chart.count('"down<br/>') == 4
    assert boxes(await past_run(runtime.store, handler.run_id))["event"] == ["Line"] * 4


async def test_joins_and_sent_events_are_followed(runtime: Any) -> None:
    class Left(Event):
        pass

    class Right(Event):
        pass

    class Pair(Workflow):
        @step
        async def send(self, ctx: Context, ev: StartEvent) -> Left | Right | None:
            ctx.send_event(Left())
            ctx.send_event(Right())

        @step
        async def join(self, left: Left, right: Right) -> StopEvent:
            return StopEvent()

    handler = Pair().run()
    await handler

    found = hops(await past_run(runtime.store, handler.run_id))
    assert found["send", "Left", "join"] == found["send", "Right", "join"] == 1


async def test_a_large_fan_out_is_drawn_with_one_box_for_most_of_it(runtime: Any) -> None:
    run = await past_run(runtime.store, await ordered(300))

    assert hops(run)["split", "Line", "price"] == 300
    found = boxes(run)
    # The first six, the last two, and the failed one if it is not among them, in order of arrival.
    [rest] = found["omitted"]
    assert 288 <= int(rest.removeprefix(f"price {TIMES} ").removesuffix(" more")) <= 292
    assert f"Line {TIMES} 300" in found["event"]
    assert len(run_picture(run).boxes) < 40
    assert any("not drawn individually" in remark for remark in run_picture(run).remarks)


async def test_a_long_loop_is_drawn_with_its_beginning_and_its_end(runtime: Any) -> None:
    handler = Loop().run(n=30)
    await handler
    run = await past_run(runtime.store, handler.run_id)

    found = boxes(run, max_items=9)

    assert found["done"] == ["begin"] + ["down"] * 8
    assert found["omitted"] == [f"work items {TIMES} 23 more"]
    assert found["stop"] == ["StopEvent"]


async def test_a_failed_run_says_what_failed(runtime: Any) -> None:
    class Broken(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            raise LookupError("gone")

    handler = Broken().run()
    with pytest.raises(LookupError):
        await handler

    picture = run_picture(await past_run(runtime.store, handler.run_id))
    assert ("Status", "failed") in picture.facts
    assert ("Failed", "go: LookupError: gone") in picture.facts
    assert {arrow.line for arrow in picture.arrows} == {"plain", "dashed"}


async def test_a_run_that_is_running_shows_what_has_happened_and_says_so(runtime: Any) -> None:
    handler = Order().run(n=1)
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            break
    picture = run_picture(await past_run(runtime.store, handler.run_id))
    await handler.cancel_run()

    assert [box.label for box in picture.boxes if box.look == "waiting"] == ["total"]
    assert picture.remarks == ("The run has not ended. What its steps are doing right now is not in this drawing.",)
    cancelled = run_picture(await past_run(runtime.store, handler.run_id))
    assert cancelled.remarks == ("No step ended the run: it is cancelled.",)


def journal_without(runtime: Any, monkeypatch: pytest.MonkeyPatch, *, commands: bool, led_to: bool) -> None:
    """From now on, read the journal as if it lacked its commands or the ids of the work they led to."""
    store = runtime.store
    batch = store.batch

    async def altered(what: str, *asked: Any) -> Any:
        found = await batch(what, *asked)
        if what != "read a journal":
            return found
        [(kind, cut, total, entries)] = found
        return [(kind, cut, total, [(entry_id, list(fields(flat))) for entry_id, flat in entries])]

    def fields(flat: list[bytes]) -> Iterator[bytes]:
        for name, value in pairs(flat).items():
            data = unpack(value) if name == b"d" else None
            if led_to and isinstance(data, dict):
                data.pop("led_to", None)
            if name != b"c" or not commands:
                yield from (name, value if data is None else pack(data))

    monkeypatch.setattr(store, "batch", altered)


async def test_a_summary_of_a_journal_shows_all_that_a_full_one_shows(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await ordered(4)
    full = await past_run(runtime.store, run_id)

    journal_without(runtime, monkeypatch, commands=True, led_to=False)

    assert await past_run(runtime.store, run_id) == full
    assert full.is_complete


async def test_a_journal_of_an_older_version_is_drawn_as_far_as_its_commands_say(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await ordered(4)

    journal_without(runtime, monkeypatch, commands=False, led_to=True)
    run = await past_run(runtime.store, run_id)

    assert not run.is_complete
    assert hops(run) == {
        (START, "StartEvent", "split"): 1,
        ("split", "Line", "price"): 4,
        ("price", "StepFailedEvent", "rescue"): 1,
    }
    assert "older version" in run_picture(run).remarks[-1]


async def test_an_older_summary_shows_what_was_executed(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await ordered(4)

    journal_without(runtime, monkeypatch, commands=True, led_to=True)
    run = await past_run(runtime.store, run_id)

    assert (run.is_complete, hops(run)) == (False, {})
    assert sorted(run.steps.values()) == ["price"] * 4 + ["rescue", "split", "total"]


async def test_a_fan_in_without_members_and_an_answer_that_came_early_are_followed(runtime: Any) -> None:
    class Early(Workflow):
        @step
        async def split(self, ctx: Context, ev: StartEvent) -> list[Line]:
            ctx.send_event(Answer())
            return [Line(n=1)]

        @step
        async def drop(self, ev: Line) -> Priced | None:
            return None

        @step
        async def total(self, ctx: Context, evs: list[Priced]) -> StopEvent:
            await ctx.wait_for_event(Answer)
            return StopEvent(result=len(evs))

    handler = Early().run()
    await handler

    found = hops(await past_run(runtime.store, handler.run_id))
    assert found["drop", "", "total"] == 1
    assert found["split", "Answer", "total"] == 1


async def test_a_run_that_does_not_exist_is_an_error(runtime: Any) -> None:
    with pytest.raises(RunNotFound, match="missing"):
        draw_most_recent_execution_mermaid(runtime.handler("missing"))

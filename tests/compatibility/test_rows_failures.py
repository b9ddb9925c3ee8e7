"""Rows 41 to 46: retries and `@catch_error`."""

from __future__ import annotations

import asyncio
import hashlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.runs import published
from umbel import Context, Workflow, catch_error, retry_policy, step
from umbel.errors import WorkflowCancelledByUser, WorkflowTimeoutError
from umbel.events import (
    Event,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
)
from umbel.retry_policy import (
    RetryInfo,
    stop_after_attempt,
    wait_exponential_jitter,
    wait_fixed,
    wait_none,
    wait_random,
    wait_random_exponential,
)
from umbel.tasks.snapshots.event_texts import with_digest


class Item(Event):
    n: int


class Passed(Event):
    n: int


# -- 41 ----------------------------------------------------------------------------------------------------------------


class Recording:
    """A user's own policy: records its calls, and does not wait."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, int | None]] = []

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        self.asked.append((attempts, str(error), seed))
        return 0.0 if attempts < 3 else None


@pytest.mark.row(41)
async def test_the_seed_of_random_waits_follows_from_run_step_and_failure() -> None:
    policy = Recording()

    class Flaky(Workflow):
        @step(retry_policy=policy)
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            raise ValueError(f"attempt {ctx.attempt}")

    handler = Flaky().run()
    with pytest.raises(ValueError, match="attempt 3"):
        await handler

    seeds = [int(hashlib.sha256(f"{handler.run_id}:go:{n}".encode()).hexdigest(), 16) % 2**32 for n in (1, 2, 3)]
    assert policy.asked == [(n, f"attempt {n}", seed) for n, seed in enumerate(seeds, start=1)]


@pytest.mark.parametrize("wait", [wait_random(0, 9), wait_random_exponential(), wait_exponential_jitter()])
@pytest.mark.row(41)
def test_equal_seeds_give_equal_delays(wait: Any) -> None:
    delays = [[wait(attempts, seed=seed) for attempts in range(4)] for seed in (7, 7, 8)]

    assert delays[0] == delays[1] != delays[2]


@pytest.mark.row(41)
async def test_a_policy_that_takes_no_seed_works() -> None:
    class Unseeded:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            return 0.0 if attempts < 2 else None

    class Flaky(Workflow):
        @step(retry_policy=Unseeded())
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt == 1:
                raise ValueError("once")
            return StopEvent(result=ctx.attempt)

    assert await Flaky().run() == 2


# -- 42 ----------------------------------------------------------------------------------------------------------------


class Delayed(Workflow):
    """Its one worker's first item fails and is due again in an hour; the second one overtakes it."""

    @step
    async def split(self, ev: StartEvent) -> list[Item]:
        return [Item(n=0), Item(n=1)]

    @step(num_workers=1, retry_policy=retry_policy(wait=wait_fixed(3600), stop=stop_after_attempt(2)))
    async def work(self, ctx: Context, ev: Item) -> Passed:
        if ev.n == 0 and ctx.retry_info().retry_number == 0:
            raise ConnectionError("try later")
        ctx.write_event_to_stream(ev)
        return Passed(n=ev.n)

    @step
    async def join(self, evs: list[Passed]) -> StopEvent:
        return StopEvent(result=[ev.n for ev in evs])


@pytest.mark.row(42)
async def test_a_delayed_retry_holds_no_slot_and_survives_a_snapshot() -> None:
    handler = Delayed(timeout=None).run()
    assert await published(handler, Item) == [Item(n=1)]
    data = handler.ctx.to_dict()
    await handler.cancel_run()

    (waiting,) = data["workers"]["work"]["queue"]
    assert waiting["attempts"] == 1
    assert waiting["last_exception"]["exception_type"] == "builtins.ConnectionError"
    assert 3500 < waiting["not_before"] - time.time() < 3601

    workflow = Delayed(timeout=None)
    restored = workflow.run(ctx=Context.from_dict(workflow, data))
    assert restored.ctx.to_dict()["workers"]["work"]["queue"][0]["not_before"] == waiting["not_before"]
    await restored.cancel_run()

    waiting["not_before"] = time.time() - 1
    assert await workflow.run(ctx=Context.from_dict(workflow, with_digest(data))) == [1, 0]


# -- 43 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(43)
async def test_retry_info_is_empty_at_first_and_then_describes_the_last_failure() -> None:
    found: list[RetryInfo] = []

    class Flaky(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            found.append(ctx.retry_info())
            if len(found) < 3:
                raise ConnectionError(f"attempt {len(found)}")
            return StopEvent()

    await Flaky().run()

    first, second, third = found
    assert (first.retry_number, first.elapsed_seconds, first.last_exception, first.last_failed_at) == (
        0,
        0.0,
        None,
        None,
    )
    assert [(info.retry_number, type(info.last_exception), str(info.last_exception)) for info in (second, third)] == [
        (1, ConnectionError, "attempt 1"),
        (2, ConnectionError, "attempt 2"),
    ]
    assert 0 <= second.elapsed_seconds <= third.elapsed_seconds
    assert second.last_failed_at is not None
    assert abs(datetime.now(UTC) - second.last_failed_at) < timedelta(minutes=5)


# -- 44 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(44)
async def test_a_handler_for_named_steps_and_one_for_all_others_get_the_six_fields() -> None:
    class Sorted(Workflow):
        @step
        async def named(self, ev: StartEvent) -> Item:
            raise KeyError("lost")

        @catch_error(for_steps=["named"])
        async def of_named(self, ctx: Context, ev: StepFailedEvent) -> Item:
            await ctx.store.set("first", ev)
            return Item(n=1)

        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def other(self, ev: Item) -> StopEvent:
            raise LookupError("gone")

        @catch_error
        async def of_others(self, ctx: Context, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=[await ctx.store.get("first"), ev])

    began = datetime.now(UTC)
    first, second = await Sorted().run(topic="x")

    assert (first.step_name, first.input_event, first.attempts) == ("named", StartEvent(topic="x"), 1)
    assert (type(first.exception), first.exception.args) == (KeyError, ("lost",))
    assert (second.step_name, second.input_event, second.attempts) == ("other", Item(n=1), 2)
    assert (type(second.exception), str(second.exception)) == (LookupError, "gone")
    for failed in (first, second):
        assert failed.elapsed_seconds >= 0
        assert abs(failed.failed_at - began) < timedelta(minutes=5)
    assert set(StepFailedEvent.model_fields) == {
        "step_name",
        "input_event",
        "exception",
        "attempts",
        "elapsed_seconds",
        "failed_at",
    }


# -- 45 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [1, 2])
@pytest.mark.row(45)
async def test_a_lineage_is_rescued_max_recoveries_times_and_then_the_run_fails(allowed: int) -> None:
    rescued: list[str] = []

    class Stubborn(Workflow):
        @step
        async def go(self, ev: StartEvent | Item) -> Passed:
            return Passed(n=0)

        @step
        async def fail(self, ev: Passed) -> StopEvent:
            raise ValueError(f"after {len(rescued)} rescues")

        @catch_error(max_recoveries=allowed)
        async def again(self, ctx: Context, ev: StepFailedEvent) -> Item | None:
            rescued.append(str(ev.exception))
            ctx.send_event(Item(n=1))  # the count is passed on with sent events as with returned ones
            return None

    with pytest.raises(ValueError, match=f"after {allowed} rescues"):
        await Stubborn().run()
    assert rescued == [f"after {n} rescues" for n in range(allowed)]


@pytest.mark.row(45)
async def test_branches_of_a_fan_out_are_counted_apart() -> None:
    class Branches(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def work(self, ev: Item) -> Passed:
            raise ValueError(ev.n)

        @catch_error
        async def replace(self, ev: StepFailedEvent) -> Passed:
            assert isinstance(ev.input_event, Item)
            return Passed(n=-ev.input_event.n)

        @step
        async def join(self, evs: list[Passed]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await Branches().run() == [-2, -1, 0]


# -- 46 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(46)
async def test_what_a_handler_raises_is_how_the_run_fails() -> None:
    class Worse(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            raise ValueError("bad")

        @catch_error
        async def fix(self, ev: StepFailedEvent) -> StopEvent:
            raise ZeroDivisionError("worse")

    handler = Worse().run()
    with pytest.raises(ZeroDivisionError, match="^worse$"):
        await handler

    ending = await handler.stop_event_result()
    assert isinstance(ending, WorkflowFailedEvent)
    assert (ending.step_name, ending.attempts) == ("fix", 1)


class Caught(Workflow):
    """A handler for all steps whose result shows that it was called."""

    @step
    async def dawdle(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Item(n=1))
        await asyncio.Event().wait()
        return StopEvent()

    @catch_error
    async def rescue(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result="rescued")


@pytest.mark.row(46)
async def test_neither_timeout_nor_cancellation_is_caught() -> None:
    late = Caught(timeout=0.3).run()
    with pytest.raises(
        WorkflowTimeoutError, match="Operation timed out after 0.3 seconds. Currently active steps: dawdle"
    ):
        await late
    assert late.get_stop_event() == WorkflowTimedOutEvent(timeout=0.3, active_steps=["dawdle"])

    unwanted = Caught().run()
    await published(unwanted, Item)
    await unwanted.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await unwanted

"""`num_concurrent_runs`: at most N runs of a workflow execute at a time, across the deployment; others wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.store.blocking import store_of
from umbel import (
    Context,
    HumanResponseEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowTimeoutError,
    WorkflowValidationError,
    attach,
    step,
)
from umbel.tasks.client.runtime import Runtime

pytestmark = pytest.mark.usefixtures("runtime")


class Go(HumanResponseEvent):
    """Lets a run end."""


class Log:
    """The runs that have begun, and the maximum number of concurrent ones."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.going_on = self.most = 0

    def enter(self, run_id: str) -> None:
        if run_id not in self.begun:  # a step that waits for an event is called again
            self.begun.append(run_id)
            self.going_on += 1
            self.most = max(self.most, self.going_on)

    def leave(self) -> None:
        self.going_on -= 1

    async def await_begun(self, count: int) -> list[str]:
        async with asyncio.timeout(20):
            while len(self.begun) < count:
                await asyncio.sleep(0.005)
        return self.begun


@pytest.fixture
def log() -> Log:
    return Log()


def held_by_event(log: Log) -> type[Workflow]:
    """Return a new workflow whose runs end when they receive `Go`."""

    class Held(Workflow):
        @step
        async def hold(self, ctx: Context, ev: StartEvent) -> StopEvent:
            log.enter(ctx.run_id)
            await ctx.wait_for_event(Go)
            log.leave()
            return StopEvent(result=ev.get("n", 0))

    return Held


async def test_never_more_run_than_allowed_and_all_are_admitted(log: Log) -> None:
    class Busy(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            log.enter(ctx.run_id)
            await asyncio.sleep(0.001)
            log.leave()
            return StopEvent(result=ev.n)

    handlers = [Busy(num_concurrent_runs=2).run(n=n) for n in range(30)]

    assert await asyncio.gather(*handlers) == list(range(30))
    assert log.most <= 2
    assert sorted(log.begun) == sorted(handler.run_id for handler in handlers)


async def test_one_after_the_other_in_the_order_of_their_starts(log: Log) -> None:
    flow = held_by_event(log)(num_concurrent_runs=1)
    handlers = [flow.run(n=n) for n in range(4)]

    for n, handler in enumerate(handlers):
        assert await log.await_begun(n + 1) == [each.run_id for each in handlers[: n + 1]]
        await handler.send_event(Go())
        assert await handler == n
    assert log.most == 1


async def test_the_time_in_the_queue_does_not_count_against_the_timeout(log: Log, runtime: Runtime) -> None:
    """The second run waits until the first one has timed out, which takes longer than its own timeout."""
    workflow = held_by_event(log)
    first = workflow(num_concurrent_runs=1, timeout=0.4).run()
    second = workflow(num_concurrent_runs=1, timeout=0.3).run()

    for handler in (first, second):
        with pytest.raises(WorkflowTimeoutError):
            await handler

    store = store_of(runtime)
    ended_at = [store.run(handler.run_id).ended_at for handler in (first, second)]
    assert ended_at[0] is not None
    assert ended_at[1] is not None
    assert ended_at[1] - ended_at[0] >= 300


async def test_a_waiting_run_can_be_attached_to_sent_events_and_cancelled(log: Log) -> None:
    flow = held_by_event(log)(num_concurrent_runs=1)
    first, second, third = (flow.run(n=n) for n in range(3))
    await log.await_begun(1)

    waits = attach(second.run_id)
    assert waits.status() == "running"
    assert not waits.is_done()
    await attach(third.run_id).send_event(Go())  # kept for the future waiter
    assert await waits.cancel()
    with pytest.raises(WorkflowCancelledByUser):
        await second
    assert log.begun == [first.run_id]

    await first.send_event(Go())
    assert (await first, await third) == (0, 2)
    assert log.begun == [first.run_id, third.run_id]


async def test_cancelling_the_admitted_run_lets_the_next_begin(log: Log) -> None:
    flow = held_by_event(log)(num_concurrent_runs=1)
    first, second = flow.run(), flow.run(n=2)
    await log.await_begun(1)

    await first.cancel_run()

    await log.await_begun(2)
    await second.send_event(Go())
    assert await second == 2


async def test_a_run_that_fails_lets_the_next_begin() -> None:
    class Fails(Workflow):
        @step
        async def fail(self, ev: StartEvent) -> StopEvent:
            raise ValueError(ev.n)

    handlers = [Fails(num_concurrent_runs=1).run(n=n) for n in range(3)]

    for n, handler in enumerate(handlers):
        with pytest.raises(ValueError, match=str(n)):
            await handler


async def test_two_clients_share_the_limit_and_the_newest_one_counts(log: Log) -> None:
    workflow = held_by_event(log)
    one, other = workflow(num_concurrent_runs=1), workflow(num_concurrent_runs=1)
    handlers = [flow.run() for flow in (one, other, one)]
    await log.await_begun(1)

    handlers.append(workflow(num_concurrent_runs=3).run())
    assert await log.await_begun(3)
    assert set(log.begun) == {handler.run_id for handler in handlers[:3]}

    for handler in handlers:
        await log.await_begun(handlers.index(handler) + 1)
        await handler.send_event(Go())
    await asyncio.gather(*handlers)
    assert log.most == 3


async def test_runs_without_a_limit_pass_by(log: Log) -> None:
    workflow = held_by_event(log)
    handlers = [workflow(num_concurrent_runs=1).run(), workflow(num_concurrent_runs=1).run(), workflow().run()]

    await log.await_begun(2)
    assert set(log.begun) == {handlers[0].run_id, handlers[2].run_id}
    for handler in handlers:
        await handler.send_event(Go())
    await asyncio.gather(*handlers)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_a_limit_is_a_positive_integer(limit: Any) -> None:
    with pytest.raises(WorkflowValidationError, match="num_concurrent_runs must be an integer greater than 0 or None"):
        held_by_event(Log())(num_concurrent_runs=limit)

"""Child runs: `ctx.run` and `ctx.run_all`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.flows.children import Waits, until
from umbel import (
    Context,
    HumanResponseEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    attach,
    catch_error,
    step,
)
from umbel.errors import ChildFailed, WorkflowCancelledByUser, WorkflowTimeoutError
from umbel.plugins import BasicRuntime

pytestmark = pytest.mark.usefixtures("runtime")


class Double(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=2 * ev.n)


class Breaks(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        raise KeyError(ev.n)


async def test_a_step_waits_for_the_result_of_a_child_run() -> None:
    executions: list[int] = []

    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            executions.append(1)
            return StopEvent(result=await ctx.run(Double(), n=21))

    assert await Parent().run() == 42
    assert len(executions) == 2


async def test_what_start_makes_takes_the_other_arguments_too() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Double.start(n=1), n=4, id="doubles-four"))

    handler = Parent().run()

    assert await handler == 8
    assert [child.run_id for child in await handler.children()] == ["doubles-four"]


async def test_results_of_many_come_in_their_order() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run_all([Double.start(n=n) for n in range(12)]))

    assert await Parent().run() == [2 * n for n in range(12)]


@pytest.mark.parametrize("given", [Double, ("Double", 1), "Double"])
async def test_what_is_no_child_is_refused_with_what_to_give(given: Any) -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await (ctx.run_all([given]) if ev.many else ctx.run(given, n=1)))

    for many in (True, False):
        with pytest.raises(
            WorkflowRuntimeError, match=r"Step 'go' of run '.*' cannot run .*Double.* as a child\. Give"
        ):
            await Parent().run(many=many)


async def test_a_limit_says_how_many_run_at_a_time() -> None:
    running, most = 0, 0

    class Busy(Workflow):
        @step(num_workers=1)
        async def go(self, ev: StartEvent) -> StopEvent:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(20):
                await asyncio.sleep(0)
            running -= 1
            return StopEvent(result=ev.n)

    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run_all([Busy.start(n=n) for n in range(9)], limit=2))

    assert await Parent().run() == list(range(9))
    assert most <= 2


async def test_more_children_than_one_commit_carries_are_run_in_parts() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=sum(await ctx.run_all([Double.start(n=n) for n in range(260)], limit=40)))

    assert await Parent(timeout=90).run() == 2 * sum(range(260))


async def test_tasks_of_a_step_run_children_at_the_same_time() -> None:
    executions: list[int] = []

    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            executions.append(1)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ctx.run(Double(), n=n)) for n in range(3)]
            return StopEvent(result=[task.result() for task in tasks])

    assert await Parent().run() == [0, 2, 4]
    assert len(executions) == 2


async def test_the_failure_of_a_child_is_raised_in_the_step_with_its_cause() -> None:
    found: list[ChildFailed] = []

    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.run(Breaks(), n="missing")
            except ChildFailed as error:
                found.append(error)
            return StopEvent()

    await Parent().run()
    assert found[0].step == "go"
    assert isinstance(found[0].error, KeyError)
    assert str(found[0]) == f"Child run {found[0].run_id!r} failed in step 'go': KeyError('missing')"
    assert attach(found[0].run_id).status() == "failed"


async def test_a_failure_that_the_step_does_not_handle_fails_the_parent_with_both() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Breaks(), n="missing"))

    with pytest.raises(ChildFailed, match="failed in step 'go': KeyError") as raised:
        await Parent().run()
    assert isinstance(raised.value.__cause__, KeyError)


async def test_catch_error_sees_a_failed_child() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Breaks(), n=1))

        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            assert isinstance(ev.exception, ChildFailed)
            return StopEvent(result=f"rescued from {ev.exception.step}")

    assert await Parent().run() == "rescued from go"


async def test_all_children_end_before_the_failure_of_one_is_raised() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            children = [Double.start(n=1), Breaks.start(n=2), Double.start(n=3)]
            ends = await ctx.run_all(children, return_exceptions=True)
            return StopEvent(result=[str(end) if isinstance(end, ChildFailed) else end for end in ends])

    first, second, third = await Parent().run()
    assert (first, third) == (2, 6)
    assert "KeyError(2)" in second


async def test_a_child_that_takes_too_long_fails_as_timed_out() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.run(Waits(), timeout_seconds=0.1)
            except ChildFailed as error:
                return StopEvent(result=type(error.error).__name__)
            return StopEvent()

    assert await Parent().run() == WorkflowTimeoutError.__name__


async def test_a_child_is_found_streamed_and_answered_under_its_chosen_id() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Waits(), id=ev.child))

    handler = Parent().run(child="invoice-7a")
    await until("invoice-7a")
    await attach("invoice-7a").send_event(HumanResponseEvent(response="paid"))
    assert await handler == "paid"


async def test_a_chosen_id_that_is_taken_fails_the_child_and_leaves_the_other_run_alone(
    runtime: BasicRuntime,
) -> None:
    other = Waits().run(run_id="invoice-8a")

    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Double(), id="invoice-8a", n=1))

    handler = Parent().run()
    with pytest.raises(ChildFailed, match="already exists"):
        await handler
    assert await handler.children() == []
    await runtime.portal.run(runtime.engine.retry(handler.run_id))
    with pytest.raises(ChildFailed, match="is no child of run"):
        await handler
    assert other.status() == "running"
    await other.cancel_run()


async def test_a_parent_that_ends_cancels_no_other_run_that_has_the_id_of_its_child(runtime: BasicRuntime) -> None:
    other = Waits().run(run_id="invoice-9a")

    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Waits(), id="invoice-9b"))

    handler = Parent().run()
    await until("invoice-9b")
    store, keys = runtime.store, runtime.store.locate(handler.run_id)

    async def as_if_refused() -> None:
        """Make the child's record name the other run, as it does just before its start is refused."""
        record = await store.command("read", "HGET", keys["children"], "invoice-9b")
        await store.command("write", "HSET", keys["children"], "invoice-9a", record)

    await asyncio.to_thread(runtime.portal.call, as_if_refused())
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await attach("invoice-9b")
    assert other.status() == "running"
    await other.cancel_run()


async def test_a_cancelled_parent_cancels_its_children_and_theirs() -> None:
    class Middle(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Waits(), id="grandchild-1"))

    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Middle(), id="child-1"))

    handler = Parent().run()
    await until("grandchild-1")
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await attach("grandchild-1")
    assert attach("child-1").status() == "cancelled"


async def test_a_parent_that_ends_leaves_a_child_alone_where_the_step_says_so() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Waits(), id="left-1", on_parent_end="leave"))

    handler = Parent().run()
    await until("left-1")
    await handler.cancel_run()
    child = attach("left-1")
    await child.send_event(HumanResponseEvent(response="still here"))
    assert await child == "still here"


async def test_two_children_of_one_name_are_refused() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.run_all([])
            await ctx.run(Double(), name="one", n=1)
            return StopEvent(result=await ctx.run(Double(), name="one", n=2))

    with pytest.raises(WorkflowRuntimeError, match="two child runs with the name 'one'"):
        await Parent().run()


async def test_a_retried_parent_takes_up_the_children_that_failed(runtime: BasicRuntime) -> None:
    broken = True
    calls: list[str] = []

    class Flaky(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            calls.append(ev.name)
            if broken and ev.name == "bad":
                raise OSError("down")
            return StopEvent(result=ev.name)

    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run_all([Flaky.start(name=name) for name in ("good", "bad")]))

    handler = Parent().run()
    with pytest.raises(ChildFailed, match="down"):
        await handler
    broken = False
    await runtime.portal.run(runtime.engine.retry(handler.run_id))
    assert await attach(handler.run_id) == ["good", "bad"]
    assert sorted(calls) == ["bad", "bad", "good"]

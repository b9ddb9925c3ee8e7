"""A run from start to result: events, branches, loops, exceptions, timeouts, cancellation."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from umbel import (
    Context,
    Event,
    RunExists,
    RunNotFound,
    StartEvent,
    StepTimeoutError,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowCancelledEvent,
    WorkflowRuntimeError,
    WorkflowTimedOutEvent,
    WorkflowTimeoutError,
    attach,
    step,
)

pytestmark = pytest.mark.usefixtures("runtime")


class Number(Event):
    n: int


class Doubled(Event):
    n: int


async def test_events_lead_from_step_to_step_and_the_stop_events_result_is_awaited() -> None:
    class Chain(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Number:
            return Number(n=ev.n)

        @step
        def second(self, ev: Number) -> Doubled:
            return Doubled(n=ev.n * 2)

        @step
        async def third(self, ev: Doubled) -> StopEvent:
            return StopEvent(result=ev.n + 1)

    assert await Chain().run(n=20) == 41


async def test_a_custom_stop_event_is_itself_the_result() -> None:
    class Order(StartEvent):
        item: str

    class Receipt(StopEvent):
        item: str
        price: int

    class Shop(Workflow):
        @step
        async def sell(self, ev: Order) -> Receipt:
            return Receipt(item=ev.item, price=3)

    receipt = await Shop().run(start_event=Order(item="tea"))
    assert isinstance(receipt, Receipt)
    assert (receipt.item, receipt.price) == ("tea", 3)


async def test_an_event_goes_to_every_step_that_accepts_it() -> None:
    class Both(Workflow):
        @step
        async def left(self, ev: StartEvent) -> Number:
            return Number(n=1)

        @step
        async def right(self, ev: StartEvent) -> Doubled:
            return Doubled(n=2)

        @step
        async def join(self, one: Number, two: Doubled) -> StopEvent:
            return StopEvent(result=[one.n, two.n])

    assert await Both().run() == [1, 2]


async def test_routing_is_by_exact_class_unless_the_step_asks_for_subclasses() -> None:
    class Special(Number):
        pass

    class Exact(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Special | Number:
            return Special(n=1)

        @step
        async def plain(self, ev: Number) -> StopEvent:
            return StopEvent(result="plain")

        @step
        async def special(self, ev: Special) -> StopEvent:
            return StopEvent(result="special")

    assert await Exact().run() == "special"


async def test_a_loop_goes_round_until_its_step_says_so() -> None:
    class Loop(Workflow):
        @step
        async def turn(self, ev: StartEvent | Number) -> Number | StopEvent:
            n = 0 if isinstance(ev, StartEvent) else ev.n
            return StopEvent(result=n) if n == 25 else Number(n=n + 1)

    assert await Loop().run() == 25


async def test_a_failing_step_raises_its_own_exception_in_the_caller() -> None:
    class Fails(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            raise ValueError("no such colour: 'grün'")

    handler = Fails().run()
    with pytest.raises(ValueError, match="^no such colour: 'grün'$"):
        await handler
    with pytest.raises(ValueError, match="colour"):
        await handler
    assert handler.is_done()


async def test_a_step_that_returns_no_event_fails_with_a_text_that_names_it() -> None:
    class Wrong(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return "done"  # type: ignore[return-value]

    with pytest.raises(WorkflowRuntimeError, match="Step function go returned str instead of an Event instance"):
        await Wrong().run()


async def test_the_runs_time_out_names_the_steps_that_were_active() -> None:
    class Slow(Workflow):
        @step
        async def dawdle(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(60)
            return StopEvent()

    handler = Slow(timeout=0.5).run()
    with pytest.raises(
        WorkflowTimeoutError, match=r"Operation timed out after 0\.5 seconds\. Currently active steps: dawdle"
    ):
        await handler
    ending = handler.get_stop_event()
    assert isinstance(ending, WorkflowTimedOutEvent)
    assert ending.active_steps == ["dawdle"]


async def test_cancelling_ends_the_run_and_the_step_that_is_at_work() -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    class Endless(Workflow):
        @step
        async def wait(self, ev: StartEvent) -> StopEvent:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
            return StopEvent()

    handler = Endless().run()
    await begun.wait()
    await handler.cancel_run()
    assert isinstance(handler.get_stop_event(), WorkflowCancelledEvent)
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    await asyncio.wait_for(stopped.wait(), 5)


async def test_the_first_stop_event_wins_and_nothing_is_published_after_it() -> None:
    release = asyncio.Event()

    class Race(Workflow):
        @step
        async def quick(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="quick")

        @step
        async def slow(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await release.wait()
            ctx.write_event_to_stream(Number(n=1))
            return StopEvent(result="slow")

    handler = Race().run()
    assert await handler == "quick"
    release.set()
    events = [event async for event in handler.stream_events()]
    assert [type(event) for event in events] == [StopEvent]
    assert await handler == "quick"


async def test_a_steps_own_time_limit_is_a_failure_of_that_attempt() -> None:
    class Limited(Workflow):
        @step(timeout=0.2)
        async def dawdle(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(60)
            return StopEvent()

    with pytest.raises(StepTimeoutError, match=r"Step 'dawdle' of run .* took longer than its timeout of 0\.2 s"):
        await Limited().run()


async def test_a_plain_steps_time_limit_interrupts_it_too() -> None:
    class Limited(Workflow):
        @step(timeout=0.2)
        def spin(self, ev: StartEvent) -> StopEvent:
            while True:
                sum(range(1000))

    with pytest.raises(StepTimeoutError, match="spin"):
        await Limited().run()


async def test_sys_exit_in_a_step_fails_the_step_and_not_the_worker() -> None:
    class Exits(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            raise SystemExit(3)

    with pytest.raises(RuntimeError, match="SystemExit"):
        await Exits().run()

    class Fine(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="alive")

    assert await Fine().run() == "alive"


class Simple(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.get("x"))


def test_without_an_event_loop_start_gives_a_handler_that_blocks() -> None:
    handler = Simple().start(x=[1, {"a": None}])
    assert handler.result(timeout=30) == [1, {"a": None}]
    assert [type(event) for event in handler.events()] == [StopEvent]


def test_any_process_can_attach_to_a_run_by_its_id() -> None:
    run_id = Simple().start(x=1).run_id
    assert attach(run_id).result(timeout=30) == 1
    with pytest.raises(RunNotFound, match="never-heard-of"):
        attach("never-heard-of")


async def test_blocking_methods_refuse_to_stop_an_event_loop() -> None:
    handler = Simple().run()
    with pytest.raises(WorkflowRuntimeError, match="await handler"):
        handler.result()
    await handler


async def test_a_custom_run_id_is_used_once() -> None:
    handler = Simple().run(run_id="mine-1", x=2)
    assert handler.run_id == "mine-1"
    assert await handler == 2
    with pytest.raises(RunExists, match="'mine-1' already exists"):
        Simple().run(run_id="mine-1")
    for unusable in ("no spaces", "-looks-like-an-option", "", "x" * 129):
        with pytest.raises(WorkflowRuntimeError, match="cannot be a run id"):
            Simple().run(run_id=unusable)


async def test_start_arguments_that_do_not_fit_are_refused_before_anything_is_started() -> None:
    class Order(StartEvent):
        amount: int

    class Shop(Workflow):
        @step
        async def sell(self, ev: Order) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match="Failed creating a start event of type Order.*amount"):
        Shop().run(amount="many")
    with pytest.raises(ValueError, match="start_event must be a StartEvent, got Number"):
        Shop().run(start_event=Number(n=1))  # type: ignore[arg-type]


async def test_the_attempt_and_the_idempotency_key_are_known_in_a_step() -> None:
    class Keyed(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            assert Context.get_step_context() is ctx
            return StopEvent(result=(ctx.attempt, ctx.idempotency_key))

    handler = Keyed().run()
    attempt, key = await handler
    assert attempt == 1
    assert key.startswith(f"{handler.run_id}/")


async def test_async_steps_run_on_the_callers_loop_and_plain_ones_in_threads() -> None:
    here = asyncio.get_running_loop()
    seen: dict[str, Any] = {}

    class Where(Workflow):
        @step
        async def on_loop(self, ev: StartEvent) -> Number:
            seen["loop"] = asyncio.get_running_loop()
            return Number(n=1)

        @step
        def in_thread(self, ev: Number) -> StopEvent:
            seen["thread"] = threading.current_thread()
            return StopEvent()

    await Where().run()
    assert seen["loop"] is here
    assert seen["thread"] is not threading.main_thread()

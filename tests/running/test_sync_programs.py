"""Programs without an event loop, with several threads, or with several event loops use one runtime."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step

pytestmark = pytest.mark.usefixtures("runtime")


class Doubled(Event):
    n: int


class Number(StartEvent):
    n: int


class Double(Workflow):
    @step
    async def double(self, ctx: Context, ev: Number) -> Doubled:
        ctx.write_event_to_stream(Doubled(n=ev.n))
        return Doubled(n=2 * ev.n)

    @step
    def done(self, ev: Doubled) -> StopEvent:
        return StopEvent(result=ev.n)


def test_many_threads_start_runs_and_wait_for_them_at_the_same_time() -> None:
    workflow = Double()
    together = threading.Barrier(8)

    def one(n: int) -> tuple[int, list[int]]:
        together.wait(20)
        handler = workflow.start(n=n)
        numbers = [event.n for event in handler.events(timeout=20) if isinstance(event, Doubled)]
        return handler.result(timeout=20), numbers

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [(2 * n, [n]) for n in range(8)]


def test_threads_that_run_a_new_workflow_at_the_same_time_register_it_once() -> None:
    together = threading.Barrier(8)

    def one(workflow: Workflow) -> int:
        together.wait(20)
        result: int = workflow.start(n=1).result(timeout=20)
        return result

    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for n in range(20):  # registering twice is a warning of Celery's
                new = type(f"Double{n}", (Double,), {"__module__": __name__})()
                assert list(pool.map(one, [new] * 8)) == [2] * 8
    finally:
        sys.setswitchinterval(often)


def test_event_loops_that_follow_each_other_share_a_runtime() -> None:
    async def one(n: int) -> int:
        result: int = await Double().run(n=n)
        return result

    assert [asyncio.run(one(n)) for n in range(3)] == [0, 2, 4]


def test_event_loops_that_run_at_the_same_time_share_a_runtime() -> None:
    together = threading.Barrier(3)

    async def many(first: int) -> list[int]:
        together.wait(20)
        return list(await asyncio.gather(*(Double().run(n=n) for n in range(first, first + 5))))

    with ThreadPoolExecutor(3) as pool:
        loops = [pool.submit(asyncio.run, many(first)) for first in (0, 10, 20)]
        assert [loop.result(30) for loop in loops] == [[2 * n for n in range(f, f + 5)] for f in (0, 10, 20)]


async def test_a_run_started_on_a_loop_is_waited_for_in_a_thread_and_the_other_way_round() -> None:
    on_loop = Double().run(n=4)
    in_thread = await asyncio.to_thread(Double().start, n=5)

    assert await asyncio.to_thread(on_loop.result, 20) == 8
    assert await in_thread == 10


async def test_a_loop_that_ends_before_its_run_leaves_the_run_to_the_worker() -> None:
    begun = threading.Event()
    go_on = threading.Event()

    class Long(Workflow):
        @step
        async def wait(self, ev: StartEvent) -> StopEvent:
            begun.set()
            while not go_on.is_set():
                await asyncio.sleep(0.01)
            return StopEvent(result="went on")

    async def start_only() -> str:
        handler = Long(timeout=None).run()
        await asyncio.to_thread(begun.wait, 20)
        return handler.run_id

    workflow = Long(timeout=None)
    run_id = await asyncio.to_thread(lambda: asyncio.run(start_only()))
    go_on.set()

    assert await workflow.runtime.attach(run_id) == "went on"


class EndingLoop(asyncio.SelectorEventLoop):
    """An event loop that ends when another thread schedules a call on it: the call is made late, or never."""

    def __init__(self, when: Literal["never", "refused", "before tasks are cancelled", "before it is closed"]) -> None:
        super().__init__()
        self.when = when
        self.is_ending = False
        self.asked: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:
        if not self.is_ending:
            return super().call_soon_threadsafe(callback, *args, context=context)
        self.asked.append((callback, args))
        if self.when == "refused":
            raise RuntimeError("Event loop is closed")
        return asyncio.Handle(callback, args, self)

    async def until_asked(self) -> None:
        """Return when another thread has scheduled a call, which is made when the caller's task has ended, or later."""
        while not self.asked:
            await asyncio.sleep(0.001)
        self.is_ending = False
        if self.when == "before tasks are cancelled":
            self._begin()

    async def shutdown_default_executor(self, *args: Any) -> None:
        """The last thing that `asyncio.Runner` does on a loop."""
        await super().shutdown_default_executor(*args)
        if self.when == "before it is closed":
            self._begin()

    def _begin(self) -> None:
        for callback, args in self.asked:
            self.call_soon(callback, *args)


@pytest.mark.parametrize("when", ["never", "refused", "before tasks are cancelled", "before it is closed"])
def test_a_loop_that_ends_when_a_step_is_about_to_begin_on_it_leaves_the_run_to_the_worker(when: Any) -> None:
    begun = threading.Event()
    go_on = threading.Event()

    class Held(Workflow):
        @step
        def first(self, ev: StartEvent) -> Doubled:
            begun.set()
            go_on.wait(20)
            return Doubled(n=1)

        @step
        async def second(self, ev: Doubled) -> StopEvent:
            return StopEvent(result="went on")

    workflow = Held(timeout=None)
    loop = EndingLoop(when)

    async def start_only() -> str:
        handler = workflow.run()
        await asyncio.to_thread(begun.wait, 20)
        loop.is_ending = True
        go_on.set()
        await loop.until_asked()
        return handler.run_id

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        run_id = runner.run(start_only())

    assert workflow.runtime.attach(run_id).result(timeout=30) == "went on"

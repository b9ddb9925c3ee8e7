"""A step that writes many events without a pause waits briefly until they are sent, and no longer."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from umbel import Context, Event, Runtime, StartEvent, StopEvent, Workflow, step
from umbel.tasks.context.emissions import Burst

#: Longer than any test waits; a test that waits this long fails.
FOR_EVER = 50.0


class Progress(Event):
    n: int


def test_after_so_many_events_the_writer_waits_for_an_answer() -> None:
    burst, order, almost = Burst(3, after_seconds=FOR_EVER, at_most_seconds=FOR_EVER), list[str](), threading.Event()

    def write() -> None:
        burst.written()
        burst.written()
        almost.set()
        burst.written()
        order.append("written")

    writer = threading.Thread(target=write)
    writer.start()
    almost.wait()
    while writer.is_alive():
        if not order:
            order.append("answered")
        burst.answered()
        writer.join(0.01)
    assert order in (["answered", "written"], ["written"])  # the latter if it was answered before the third event


def test_a_writer_waits_after_a_moment_even_if_its_events_are_few() -> None:
    burst, written = Burst(100, after_seconds=0.0, at_most_seconds=FOR_EVER), threading.Event()
    writer = threading.Thread(target=lambda: (burst.written(), written.set()))
    writer.start()
    while not written.is_set():
        burst.answered()
        written.wait(0.01)
    writer.join()


def test_events_that_are_answered_before_the_next_are_no_burst() -> None:
    burst = Burst(3, after_seconds=FOR_EVER, at_most_seconds=FOR_EVER)
    for _ in range(10):
        burst.written()
        burst.answered()


async def test_an_async_step_that_lets_its_loop_run_never_waits() -> None:
    burst = Burst(3, after_seconds=FOR_EVER, at_most_seconds=FOR_EVER)
    for _ in range(10):
        burst.written()
        burst.written()
        await asyncio.sleep(0)


def test_a_writer_does_not_wait_again_and_again_while_nothing_is_answered() -> None:
    burst = Burst(1, at_most_seconds=0.05)
    began = time.monotonic()
    for _ in range(2_000):
        burst.written()
    assert time.monotonic() - began < 2_000 * 0.05 / 2


def test_no_writer_waits_if_it_is_switched_off() -> None:
    burst = Burst(0, after_seconds=0, at_most_seconds=FOR_EVER)
    for _ in range(100):
        burst.written()


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_burst_arrives_whole_and_in_order(runtime: Runtime, is_async: bool) -> None:
    def write(ctx: Context) -> StopEvent:
        for n in range(1_000):
            ctx.write_event_to_stream(Progress(n=n))
        return StopEvent()

    class Blocking(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return write(ctx)

    class Plain(Workflow):
        @step
        def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return write(ctx)

    handler = (Blocking if is_async else Plain)().run()
    assert [e.n async for e in handler.stream_events() if isinstance(e, Progress)] == list(range(1_000))
    await handler

"""Events published during a run: live, replayed, filtered."""

from __future__ import annotations

import asyncio
import threading

import pytest

from umbel import (
    Context,
    Event,
    InternalDispatchEvent,
    StartEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    Workflow,
    attach,
    step,
)

pytestmark = pytest.mark.usefixtures("runtime")


class Progress(Event):
    n: int


class Other(Event):
    pass


async def test_each_event_reaches_the_reader_while_the_step_that_wrote_it_still_runs() -> None:
    seen = asyncio.Event()

    class Live(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(3):
                seen.clear()
                ctx.write_event_to_stream(Progress(n=n))
                await asyncio.wait_for(seen.wait(), 10)  # the step continues only after a reader has the event
            return StopEvent(result="published")

    handler = Live().run()
    got = []
    async for event in handler.stream_events():
        if isinstance(event, Progress):
            got.append(event.n)
            seen.set()
    assert got == [0, 1, 2]
    assert await handler == "published"


class Burst(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(200):
            ctx.write_event_to_stream(Progress(n=n))
        ctx.write_event_to_stream(Other())
        ctx.write_event_to_stream(None)
        return StopEvent()


async def test_late_and_second_readers_see_everything_in_order() -> None:
    handler = Burst().run()
    await handler
    for reader in (handler, handler, attach(handler.run_id)):
        events = [event async for event in reader.stream_events()]
        assert [e.n for e in events if isinstance(e, Progress)] == list(range(200))
        assert isinstance(events[-1], StopEvent)


async def test_a_reader_that_stopped_early_resumes_where_it_stopped() -> None:
    handler = Burst().run()
    first = []
    stream = handler.stream_events(types=[Progress])
    async for event in stream:
        first.append(event.n)
        if event.n == 9:
            break
    await stream.aclose()
    rest = [event.n async for event in handler.stream_events(types=[Progress])]
    assert first + rest == list(range(200))


async def test_types_filter_what_is_read() -> None:
    handler = Burst().run()
    assert [type(event) async for event in handler.stream_events(types=[Other])] == [Other]


async def test_internal_events_are_shown_on_request_only() -> None:
    handler = Burst().run()
    await handler
    plain = [event async for event in handler.stream_events()]
    assert not any(isinstance(event, InternalDispatchEvent) for event in plain)
    states = [e async for e in handler.stream_events(expose_internal=True, types=[StepStateChanged])]
    assert [(e.name, e.step_state) for e in states] == [("go", StepState.RUNNING), ("go", StepState.NOT_RUNNING)]


def test_a_reader_needs_no_event_loop() -> None:
    handler = Burst().start()
    assert [e.n for e in handler.events() if isinstance(e, Progress)] == list(range(200))


async def test_two_readers_on_two_loops_both_see_a_running_run() -> None:
    go_on = asyncio.Event()

    class Held(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Progress(n=1))
            await go_on.wait()
            ctx.write_event_to_stream(Progress(n=2))
            return StopEvent()

    handler = Held().run()
    elsewhere: list[int] = []

    def read() -> None:
        async def main() -> None:
            async for event in attach_held():
                elsewhere.append(event.n)

        asyncio.run(main())

    def attach_held() -> object:
        return handler.stream_events(types=[Progress])  # type: ignore[no-any-return]

    thread = threading.Thread(target=read)
    thread.start()
    mine = []
    async for event in handler.stream_events(types=[Progress]):
        mine.append(event.n)
        go_on.set()
    await asyncio.to_thread(thread.join, 10)
    assert mine == elsewhere == [1, 2]

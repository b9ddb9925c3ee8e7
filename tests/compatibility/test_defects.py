"""Known defects of LlamaIndex Workflows that umbel does not have: `test_defect_NN_…`.

Some are tested elsewhere: an answer that arrives twice (1) by row 67, handlers without validation (4) by row 17; runs
left behind by a crash (8), lost writes (9) and processes that share one store (10) by tests/processes.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Annotated

import pytest

from support.runs import idle
from support.store.blocking import store_of
from umbel import Context, Workflow, attach, step
from umbel.events import Event, HumanResponseEvent, StartEvent, StopEvent
from umbel.handler import WorkflowHandler
from umbel.plugins import BasicRuntime
from umbel.resource import Resource

SEVEN_DAYS = 7 * 24 * 3600


class Answer(HumanResponseEvent):
    pass


class Turn(Event):
    n: int


class Note(Event):
    text: str


class Connection:
    pass


async def test_defect_02_the_time_limit_of_a_wait_survives_a_snapshot(runtime: BasicRuntime) -> None:
    class Patient(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(Answer, timeout=3600)
            except TimeoutError:
                return StopEvent(result="nobody came")
            return StopEvent(result="somebody came")

    def turn_the_clock_past_the_wait(handler: WorkflowHandler) -> int:
        timers, client = runtime.store.locate(handler.run_id)["timers"], store_of(runtime).client
        waits = [member for member, _ in client.zscan_iter(timers, match=f"waiter|{handler.run_id}|*")]
        return int(client.zadd(timers, dict.fromkeys(waits, 1), xx=True, ch=True)) if waits else 0

    original = Patient(timeout=None).run()
    await idle(original)

    resumed = Patient(timeout=None).run(ctx=Context.from_dict(Patient(), original.ctx.to_dict()))

    assert turn_the_clock_past_the_wait(resumed) == 1
    assert await resumed == "nobody came"
    assert not original.is_done()
    await original.cancel_run()


async def test_defect_03_steps_that_need_a_slow_resource_at_once_wait_for_one_and_the_same() -> None:
    both_asked = threading.Barrier(2, timeout=20)
    made: list[Connection] = []

    def ask() -> int:
        both_asked.wait()  # both executions get here before the slow resource is created
        return 0

    async def slow() -> Connection:
        await asyncio.sleep(0)
        made.append(Connection())
        return made[-1]

    class Parallel(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Turn]:
            return [Turn(n=0), Turn(n=1)]

        @step
        async def work(
            self,
            ev: Turn,
            asked: Annotated[int, Resource(ask, cache=False)],
            connection: Annotated[Connection, Resource(slow)],
        ) -> Note:
            return Note(text=str(id(connection)))

        @step
        async def join(self, evs: list[Note]) -> StopEvent:
            return StopEvent(result={ev.text for ev in evs} == {str(id(made[0]))})

    assert await Parallel().run() is True
    assert len(made) == 1


async def test_defect_11_a_snapshot_does_not_grow_with_what_the_run_has_done() -> None:
    class Rounds(Workflow):
        @step
        async def turn(self, ctx: Context, ev: StartEvent | Turn) -> Turn | StopEvent:
            left = ev.n
            if left == 0:
                await ctx.wait_for_event(Answer)
                return StopEvent()
            ctx.write_event_to_stream(Note(text="round"))
            return Turn(n=left - 1)

    async def size_after(rounds: int) -> int:
        handler = Rounds().run(n=rounds)
        await idle(handler)
        size = len(json.dumps(handler.ctx.to_dict()))
        await handler.cancel_run()
        return size

    assert await size_after(100) == pytest.approx(await size_after(1), abs=50)  # the length of instants varies


async def test_defect_12_nothing_of_an_ended_run_is_kept_for_ever(runtime: BasicRuntime) -> None:
    class Busy(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> list[Turn]:
            await ctx.store.set("seen", 1)
            ctx.write_event_to_stream(Note(text="begun"))
            return [Turn(n=n) for n in range(5)]

        @step
        async def end(self, ctx: Context, evs: list[Turn]) -> StopEvent:
            return StopEvent(result=len(evs))

    handler = Busy().run()
    assert await handler == 5

    client = store_of(runtime).client
    async with asyncio.timeout(20):
        while any(client.ttl(key) == -1 for key in client.scan_iter(f"*{handler.run_id}*")):
            await asyncio.sleep(0.02)
    left = [client.ttl(key) for key in client.scan_iter(f"*{handler.run_id}*")]
    assert left
    assert max(left) <= SEVEN_DAYS


async def test_defect_15_a_stop_event_in_the_stream_ends_neither_stream_nor_run() -> None:
    class Early(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(StopEvent(result="not yet"))
            await ctx.wait_for_event(Answer)
            return StopEvent(result="the end")

    handler = Early().run()
    await idle(handler)
    assert not handler.is_done()
    await handler.send_event(Answer())

    assert await handler == "the end"
    results = [event.result async for event in attach(handler.run_id).stream_events()]
    assert results == ["not yet", "not yet", "the end"]  # the step was called again after the answer arrived

"""Reading a run's events: live, replayed, from threads and event loops, filtered."""

from __future__ import annotations

import asyncio
import threading

import pytest

from support.eventually import eventually
from support.store.driving import event, failed
from support.store.streams import (
    PATIENCE,
    PROGRESS,
    Reading,
    Telling,
    is_followed,
    listeners,
    numbers,
    types,
)
from umbel.orchestration.model.commands import Trace
from umbel.orchestration.model.envelope import (
    CANCELLED,
    IDLE,
    INTERNAL,
    STEP_STATE_CHANGED,
    STOP,
    UNHANDLED,
    ending,
    internal,
)
from umbel.orchestration.model.errors import RunNotFound
from umbel.orchestration.store.replies import Applied
from umbel.orchestration.streams.reader import StreamHub

# -- live and replayed -------------------------------------------------------------------------------------------------


def test_a_waiting_reader_gets_each_event_while_the_run_continues(hub: StreamHub, run: Telling) -> None:
    reading = Reading(hub.reader(run.run_id))

    for n in range(5):
        run.tell(n)
        assert reading.number() == n
    run.end()

    assert types(reading.rest()) == [STOP]
    assert not reading.reader.fell_behind


def test_a_burst_of_a_thousand_events_arrives_in_order(hub: StreamHub, run: Telling) -> None:
    reading = Reading(hub.reader(run.run_id))
    eventually(lambda: is_followed(run), "the reader is subscribed")

    for start in range(0, 1000, 50):
        run.tell(*range(start, start + 50))
    run.end()

    assert numbers(reading.rest()) == list(range(1000))


def test_a_late_reader_replays_the_log_and_needs_no_subscription(hub: StreamHub, run: Telling) -> None:
    run.tell(*range(450))
    run.end()

    for _ in range(2):
        found = list(hub.reader(run.run_id).events())
        assert numbers(found) == list(range(450))
        assert types(found)[-1] == STOP
    assert listeners(run.store.client) == 0


def test_a_reader_that_comes_in_the_middle_gets_what_was_and_what_will_be(hub: StreamHub, run: Telling) -> None:
    first = Reading(hub.reader(run.run_id))
    run.tell(1, 2)
    assert [first.number(), first.number()] == [1, 2]

    second = Reading(hub.reader(run.run_id))
    assert [second.number(), second.number()] == [1, 2]
    run.tell(3)
    run.end()

    assert numbers(first.rest()) == numbers(second.rest()) == [3]


def test_a_reader_begins_behind_the_number_it_names(hub: StreamHub, run: Telling) -> None:
    run.tell(*range(10))
    run.end()

    everything = list(hub.reader(run.run_id).events())
    assert list(hub.reader(run.run_id, after=everything[6].seq).events()) == everything[7:]
    assert list(hub.reader(run.run_id, after=everything[-1].seq).events()) == []
    assert list(hub.reader(run.run_id, after=10**20).events()) == []
    assert list(hub.reader(run.run_id, after=-(10**20)).events()) == everything


def test_an_event_carries_its_number_step_and_attempt(hub: StreamHub, run: Telling) -> None:
    run.tell(1)
    run.end()

    seen, end = hub.reader(run.run_id).events()

    assert (seen.seq, seen.step, seen.attempt) == (1, "go", 1)  # number 0 is the step's start
    assert seen.envelope == event(PROGRESS, n=1)
    assert (end.seq, end.step, end.attempt) == (3, "", 0)


def test_reading_again_after_a_break_resumes_where_it_stopped(hub: StreamHub, run: Telling) -> None:
    run.tell(*range(10))
    run.end()
    reader = hub.reader(run.run_id)

    first = []
    for found in reader.events():
        first.append(found)
        if len(first) == 4:
            break

    assert numbers([*first, *reader.events()]) == list(range(10))


def test_a_reader_whose_time_is_over_says_so_and_can_continue(hub: StreamHub, run: Telling) -> None:
    run.tell(1)
    reader = hub.reader(run.run_id)

    got = []
    with pytest.raises(TimeoutError, match=f"Run '{run.run_id}' published nothing for 0.01 s after number 1"):
        got.extend(found.seq for found in reader.events(timeout=0.01))

    run.tell(2)
    run.end()
    assert numbers(reader.events(timeout=PATIENCE)) == [2]


def test_a_stop_event_that_a_step_wrote_does_not_end_the_stream(hub: StreamHub, run: Telling) -> None:
    reading = Reading(hub.reader(run.run_id))
    run.publish(event("app.Finished", STOP, result=1), event(STOP, result=2))
    run.tell(3)
    run.end()
    live = reading.rest()

    assert types(live) == ["app.Finished", STOP, PROGRESS, STOP]
    assert list(hub.reader(run.run_id).events()) == live


def test_a_run_that_was_cancelled_ends_the_stream(hub: StreamHub, run: Telling) -> None:
    reading = Reading(hub.reader(run.run_id))
    run.tell(1)
    assert reading.number() == 1

    run.store.finish(run.run_id, "cancelled", ending(CANCELLED))

    assert types(reading.rest()) == [CANCELLED]


def test_a_resumed_run_is_read_to_its_last_end(hub: StreamHub, run: Telling) -> None:
    run.tell(1)
    run.commit(run.work, failed(), batches=1)
    first_end = list(hub.reader(run.run_id).events())[-1]

    revived = run.store.revive(run.run_id, timeout_seconds=None)
    assert isinstance(revived, Applied)
    run.heard(revived)
    reading = Reading(hub.reader(run.run_id))
    run.work, run.batches = run.claim("go"), 0
    run.tell(2)
    run.end()

    found = reading.rest()
    assert numbers(found) == [1, 2]
    assert first_end in found
    assert found[-1].envelope.type == STOP


def test_an_unknown_run_is_named(hub: StreamHub) -> None:
    with pytest.raises(RunNotFound, match="No run 'nobody'"):
        next(hub.reader("nobody").events())
    with pytest.raises(RunNotFound, match="No run 'nobody'"):
        hub.wait_ended("nobody")


async def test_an_unknown_run_is_named_on_an_event_loop(hub: StreamHub) -> None:
    with pytest.raises(RunNotFound, match="No run 'nobody'"):
        await anext(hub.reader("nobody").aevents())
    with pytest.raises(RunNotFound, match="No run 'nobody'"):
        await hub.await_ended("nobody")


# -- filters -----------------------------------------------------------------------------------------------------------


def test_step_states_are_shown_on_request(hub: StreamHub, run: Telling) -> None:
    def state(name: str, state: str, worker: str, taken: str, given: str | None = None) -> object:
        return internal(
            STEP_STATE_CHANGED,
            name=name,
            step_state=state,
            worker_id=worker,
            input_event_name=taken,
            output_event_name=given,
        )

    live = Reading(hub.reader(run.run_id, internal=True))
    run.apply(
        Trace("go", "preparing", "<enqueued>", "app.A"),
        Trace("go", "parked", "<needs_code>", "app.A"),
        Trace("go", "unhandled", "", "app.Outer.Inner"),
        Trace("", "unhandled", "", "Alone"),
        Trace("", "idle", ""),
    )
    run.tell(1)
    run.end()

    shown = live.rest()
    assert [found.envelope for found in shown] == [
        state("go", "running", "0", "StartEvent"),
        state("go", "preparing", "<enqueued>", "A"),
        state("go", "preparing", "<needs_code>", "A"),
        internal(UNHANDLED, event_type="Inner", qualified_name="app.Outer.Inner", step_name="go", idle=False),
        internal(UNHANDLED, event_type="Alone", qualified_name="Alone", step_name=None, idle=False),
        internal(IDLE),
        event(PROGRESS, n=1),
        state("go", "not_running", "0", "<class 'umbel.events.StartEvent'>", "<class 'umbel.events.StopEvent'>"),
        event(STOP, result="done"),
    ]
    assert [found.seq for found in shown] == list(range(9))
    assert (shown[1].step, shown[1].attempt) == ("go", 0)
    assert list(hub.reader(run.run_id, internal=True).events()) == shown


def test_internal_events_are_hidden_otherwise_also_those_that_a_step_wrote(hub: StreamHub, run: Telling) -> None:
    reading = Reading(hub.reader(run.run_id))
    run.publish(event("app.Inside", INTERNAL), event(PROGRESS, n=1))
    run.apply(Trace("go", "preparing", "<enqueued>", "app.A"))
    run.end()

    assert types(reading.rest()) == types(hub.reader(run.run_id).events()) == [PROGRESS, STOP]


def test_types_are_read_exactly_and_the_end_is_noticed_all_the_same(hub: StreamHub, run: Telling) -> None:
    live = Reading(hub.reader(run.run_id, types=[PROGRESS]))
    run.publish(event("app.Other"), event("app.Better", PROGRESS), event(PROGRESS, n=1))
    run.end()

    assert types(live.rest()) == types(hub.reader(run.run_id, types=[PROGRESS]).events()) == [PROGRESS]


# -- event loops -------------------------------------------------------------------------------------------------------


async def test_an_event_loop_reads_live_and_replays(hub: StreamHub, run: Telling) -> None:
    stream = hub.reader(run.run_id).aevents()
    for n in range(5):
        await asyncio.to_thread(run.tell, n)
        assert (await asyncio.wait_for(anext(stream), PATIENCE)).envelope == event(PROGRESS, n=n)
    await asyncio.to_thread(run.end)

    assert types([found async for found in stream]) == [STOP]
    assert numbers([found async for found in hub.reader(run.run_id).aevents()]) == list(range(5))


async def test_a_burst_reaches_readers_on_an_event_loop_in_order(hub: StreamHub, run: Telling) -> None:
    async def read() -> list[int]:
        return numbers([found async for found in hub.reader(run.run_id).aevents()])

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.to_thread(eventually, lambda: is_followed(run), "they are subscribed")
    for start in range(0, 1000, 50):
        await asyncio.to_thread(run.tell, *range(start, start + 50))
    await asyncio.to_thread(run.end)

    assert await asyncio.gather(*readers) == [list(range(1000))] * 3


async def test_a_cancelled_reader_leaves_and_another_continues_from_there(hub: StreamHub, run: Telling) -> None:
    await asyncio.to_thread(run.tell, 1)
    reader = hub.reader(run.run_id)
    got: list[int] = []

    async def read() -> None:
        async for found in reader.aevents():
            got.extend(numbers([found]))

    task = asyncio.create_task(read())
    await asyncio.to_thread(eventually, lambda: bool(got) and is_followed(run), "it waits for more")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(run.tell, 2)
    await asyncio.to_thread(run.end)
    await read()

    assert got == [1, 2]


def test_two_event_loops_in_two_threads_and_a_thread_without_one_share_a_hub(hub: StreamHub, run: Telling) -> None:
    results: dict[int, list[int]] = {}

    def loop(which: int) -> None:
        async def read() -> list[int]:
            return numbers([found async for found in hub.reader(run.run_id).aevents()])

        results[which] = asyncio.run(read())

    threads = [threading.Thread(target=loop, args=(which,), daemon=True) for which in range(2)]
    for thread in threads:
        thread.start()
    blocking = Reading(hub.reader(run.run_id))
    eventually(lambda: is_followed(run), "somebody is subscribed")
    for n in range(100):
        run.tell(n)
    run.end()

    assert numbers(blocking.rest()) == list(range(100))
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {0: list(range(100)), 1: list(range(100))}


def test_a_loop_that_was_closed_over_its_reader_does_not_trouble_the_others(hub: StreamHub, run: Telling) -> None:
    abandoned = []

    async def read_two_and_stop_in_the_middle() -> None:
        abandoned.append(hub.reader(run.run_id).aevents())
        for n in (1, 2):
            telling = asyncio.create_task(asyncio.to_thread(run.tell, n))
            assert numbers([await anext(abandoned[0])]) == [n]
            await telling

    loop = asyncio.new_event_loop()
    loop.run_until_complete(read_two_and_stop_in_the_middle())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    reading = Reading(hub.reader(run.run_id))
    run.tell(3)
    run.end()

    assert numbers(reading.rest()) == [1, 2, 3]
    eventually(lambda: not is_followed(run), "the abandoned reader is forgotten")

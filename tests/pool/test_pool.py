"""The parts of the asyncio pool, each tested alone. The pool as a whole is tested in test_pool_contract.py."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import celery
import pytest
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.threads import LocalStack, _FastLocalStack

from support.eventually import eventually
from umbel.orchestration.model.errors import ConfigurationError
from umbel.workers.pool import loop as pool_loop
from umbel.workers.pool import task_context
from umbel.workers.pool import taskpool as pool
from umbel.workers.pool.daemon_threads import DaemonThreads
from umbel.workers.pool.interrupts import InterruptibleThread, SoftLimit, Stopped
from umbel.workers.pool.lazy_request import LazyTaskRequest, TaskRequest
from umbel.workers.pool.loop import PoolLoop
from umbel.workers.pool.loop_lag import LoopWatch
from umbel.workers.pool.settings import PoolSettings

# -- soft limits of coroutines ---------------------------------------------------------------------------------------


async def _limited(coroutine_function: Callable[[], Any], entered: asyncio.Event) -> Any:
    limit = SoftLimit(coroutine_function())
    running = asyncio.ensure_future(_awaiting(limit))
    await entered.wait()
    limit.reach(3)
    return await running


async def _awaiting(limit: SoftLimit) -> Any:
    return await limit


async def test_a_coroutine_may_catch_its_soft_limit_and_continue_waiting() -> None:
    entered = asyncio.Event()

    async def step() -> str:
        try:
            entered.set()
            await asyncio.Event().wait()
        except SoftTimeLimitExceeded as error:
            await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            return f"{error.args[0]} {task.cancelling()}"
        return "never"

    assert await _limited(step, entered) == "3 0"


@pytest.mark.parametrize("construct", ["TaskGroup", "wait_for", "gather", "shield"])
async def test_a_soft_limit_leaves_no_child_behind(construct: str) -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def child() -> None:
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def step() -> str:
        try:
            if construct == "TaskGroup":
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(child())
            elif construct == "wait_for":
                await asyncio.wait_for(child(), 60)
            elif construct == "gather":
                await asyncio.gather(child(), child())
            else:
                inner = asyncio.ensure_future(child())
                try:
                    await asyncio.shield(inner)
                except asyncio.CancelledError:
                    inner.cancel()
                    await asyncio.wait([inner])
                    raise
        except SoftTimeLimitExceeded:
            return "caught"
        return "never"

    assert await _limited(step, entered) == "caught"
    await ended.wait()


async def test_a_soft_limit_before_the_first_step_does_nothing() -> None:
    async def step() -> str:
        return "ran"

    limit = SoftLimit(step())
    limit.reach(1)

    assert await limit == "ran"


async def test_a_cancellation_is_no_soft_limit() -> None:
    entered = asyncio.Event()

    async def step() -> None:
        entered.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(_awaiting(SoftLimit(step())))
    await entered.wait()
    running.cancel()

    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    assert not isinstance(caught.value, SoftTimeLimitExceeded)


# -- threads ---------------------------------------------------------------------------------------------------------


def test_a_thread_is_interrupted_in_its_job_and_never_after_it() -> None:
    threads = DaemonThreads(1, "test")
    entered = threading.Event()

    def spin() -> None:
        entered.set()
        while True:
            sum(range(100))

    for _ in range(50):
        entered.clear()
        job = InterruptibleThread()
        running = threads.submit(job.call, spin)
        entered.wait()
        job.interrupt(Stopped)
        with pytest.raises(Stopped):
            running.result(10)
        job.interrupt(Stopped)
        assert threads.submit(sum, range(10000)).result(10) == 49995000

    threads.shutdown()


def test_an_interruption_that_races_with_the_end_of_a_job_hits_nothing_else() -> None:
    threads = DaemonThreads(1, "test")
    endings = set()

    for turn in range(300):
        job = InterruptibleThread()
        running = threads.submit(job.call, functools.partial(sum, range(turn)))
        job.interrupt(Stopped)
        with contextlib.suppress(Stopped):
            endings.add(running.result(10) == sum(range(turn)))
        assert threads.submit(lambda: "unharmed").result(10) == "unharmed"

    assert endings <= {True}
    threads.shutdown()


def test_threads_are_made_as_needed_and_no_more_than_allowed() -> None:
    threads = DaemonThreads(2, "test")
    gate = threading.Event()
    first = threads.submit(lambda: threading.current_thread().name)
    assert first.result(10) == "test-1"

    held = [threads.submit(gate.wait) for _ in range(3)]
    eventually(lambda: sum(each.running() for each in held) == 2, "two of them run")

    assert not held[2].running()
    gate.set()
    assert [each.result(10) for each in held] == [True] * 3
    threads.shutdown()


def test_a_stuck_thread_does_not_keep_the_interpreter() -> None:
    program = """
from threading import Event
from umbel.workers.pool.daemon_threads import DaemonThreads
entered = Event()
DaemonThreads(1, "test").submit(lambda: (entered.set(), Event().wait()))
entered.wait()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0


# -- requests --------------------------------------------------------------------------------------------------------


async def test_each_context_has_its_own_stack_and_its_children_share_it() -> None:
    stack = LocalStack()
    task_context.follow_contexts(stack)
    seen = {}

    async def child() -> Any:
        return stack.top

    async def step(name: str) -> None:
        stack.push(name)
        await asyncio.sleep(0)
        seen[name] = [stack.top, await asyncio.create_task(child()), await asyncio.to_thread(lambda: stack.top)]
        stack.pop()

    steps = [asyncio.create_task(step(str(n)), context=task_context.own_context()) for n in range(20)]
    await asyncio.gather(*steps)

    assert seen == {str(n): [str(n)] * 3 for n in range(20)}
    assert stack.top is None


def test_another_kind_of_stack_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"they are _FastLocalStack\. Unset the environment variable USE_FAST"):
        task_context.follow_contexts(_FastLocalStack())


def test_a_request_is_what_celery_makes_of_the_same_message() -> None:
    message = {
        "id": "1",
        "task": "t",
        "lang": "py",
        "timelimit": [3, 2],
        "hostname": "h",
        "x-mine": 1,
        "delivery_info": {"priority": 1},
        "args": (1,),
        "kwargs": {},
    }
    for fields in (message, message | {"headers": {"a": 1}}, {"id": "2"}):
        expected = vars(Context(fields, called_directly=False, callbacks=None))
        assert vars(TaskRequest(fields, called_directly=False, callbacks=None)) == expected
        assert vars(LazyTaskRequest(functools.partial(dict, fields, called_directly=False, callbacks=None))) == expected


def test_a_request_is_put_together_when_it_is_first_read_and_then_is_an_ordinary_one() -> None:
    read = []

    def fields() -> dict[str, object]:
        read.append(1)
        return {"id": "1", "args": (2,), "headers": {"a": 1}}

    request = LazyTaskRequest(fields)
    assert (type(request), read) == (LazyTaskRequest, [])
    assert (request.id, request.args, request.retries, request.get("headers")) == ("1", (2,), 0, {"a": 1})
    assert (type(request), read) == (TaskRequest, [1])
    request.id = "3"
    assert (request.id, vars(request)["id"]) == ("3", "3")
    assert not hasattr(request, "nothing")


# -- the loop --------------------------------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[PoolLoop]:
    made = PoolLoop("asyncio")
    yield made
    made.end(5)


def test_the_loop_continues_when_a_child_task_raises_system_exit(
    loop: PoolLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def parent() -> str:
        with contextlib.suppress(SystemExit):
            await asyncio.create_task(leave())
        return "alive"

    assert asyncio.run_coroutine_threadsafe(parent(), loop.loop).result(10) == "alive"
    assert "A child task raised SystemExit(3)" in caplog.text


def test_ending_the_loop_cancels_what_runs() -> None:
    loop = PoolLoop("asyncio")
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    running = asyncio.run_coroutine_threadsafe(forever(), loop.loop)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop.loop).result(10)

    loop.end(10)

    assert cancelled.is_set()
    assert running.cancelled()
    assert loop.loop.is_closed()


def test_a_task_that_blocks_the_loop_is_logged_once_with_its_location(
    loop: PoolLoop, caplog: pytest.LogCaptureFixture
) -> None:
    watch = LoopWatch(loop, lambda: True, 0.05)
    gate = threading.Event()

    async def wait_wrongly() -> None:
        gate.wait(20)

    blocked = loop.loop.create_task
    loop.call(lambda: blocked(wait_wrongly(), name="slow[1]"))
    eventually(lambda: "slow[1] has blocked" in caplog.text, "it is logged")
    logged_at = time.monotonic()
    eventually(lambda: time.monotonic() > logged_at + 0.3, "it could be logged again")
    gate.set()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop.loop).result(10)
    watch.stop()

    logged = [each for each in caplog.records if getattr(each, "action", None) == "loop_blocked"]
    assert len(logged) == 1
    assert "in wait_wrongly" in logged[0].getMessage()
    assert logged[0].levelno == logging.WARNING


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"worker_asyncio_threads": 0}, "worker_asyncio_threads must be a number of at least 1, got 0."),
        ({"worker_asyncio_threads": "4"}, "worker_asyncio_threads must be a number of at least 1, got '4'."),
        ({"worker_asyncio_lag_seconds": -1}, "worker_asyncio_lag_seconds must be a number of at least 0, got -1."),
    ],
)
def test_unusable_settings_are_refused(setting: dict[str, Any], text: str) -> None:
    app = celery.Celery(set_as_current=False)
    app.conf.update(setting)

    with pytest.raises(ConfigurationError, match=f"^{text}$"):
        PoolSettings.of(app)


def test_settings_have_defaults() -> None:
    assert PoolSettings.of(celery.Celery(set_as_current=False)) == PoolSettings(8, "asyncio", 1.0)


def test_an_unknown_loop_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^worker_asyncio_loop must be 'asyncio' or 'uvloop', got 'trio'\.$"):
        pool_loop.PoolLoop("trio")


def test_the_celery_setting_finds_the_pool() -> None:
    assert celery.concurrency.get_implementation("umbel.workers.pool:AsyncPool") is pool.AsyncPool

"""Whose a resource is: of threads, event loops, forked children; and what waiting for one may come to."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

import pytest

from support.eventually import eventually
from umbel.orchestration.model.errors import StepTimeoutError
from umbel.tasks.attempt.calling import Calling
from umbel.tasks.attempt.step_loop import LoopThread
from umbel.tasks.resources.resolution import ResourceManager, drive
from umbel.tasks.resources.resource import Resource
from umbel.tasks.steps.signature import ResourceDefinition

T = TypeVar("T")


class Made:
    """A value of its own."""


def counting(made: list[Made]) -> Callable[[], Made]:
    """A factory that notes what it makes."""

    def make() -> Made:
        made.append(Made())
        return made[-1]

    return make


class Asking:
    """A thread that executes a step: it makes resources as `call_step` does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_seconds: float | None = None) -> None:
        self.cancels: list[Callable[[], None]] = []
        self.waits = threading.Event()
        self.loop = loop
        self.calling = Calling(
            "go", "run-1", timeout_seconds=timeout_seconds, loop=lambda: loop, on_cancel=self._on_cancel
        )

    def _on_cancel(self, cancel: Callable[[], None] | None) -> None:
        if cancel is not None:
            self.cancels.append(cancel)
            self.waits.set()

    def ask(self, manager: ResourceManager, *resources: Resource) -> list[Any]:
        definitions = [ResourceDefinition(f"r{n}", Any, resource) for n, resource in enumerate(resources)]
        return list(drive(manager.making(definitions, lambda: self.loop), self.calling.make).values())


@pytest.fixture
def loop() -> Any:
    thread = LoopThread()
    yield thread.loop
    thread.close()


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def on_new_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own, from inside a test that may have one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def test_what_is_not_kept_is_made_once_for_each_execution_and_shared_in_it(loop: asyncio.AbstractEventLoop) -> None:
    made: list[Made] = []
    make, manager = counting(made), ResourceManager()

    def make_pair(
        left: Annotated[Made, Resource(make, cache=False)], right: Annotated[Made, Resource(make, cache=False)]
    ) -> tuple[Made, Made]:
        return left, right

    def execute() -> list[Any]:
        return Asking(loop).ask(manager, Resource(make, cache=False), Resource(make_pair, cache=False))

    (once, pair), (again, other_pair) = execute(), execute()

    assert [id(each) for each in made] == [id(once), id(again)]
    assert pair == (once, once)
    assert other_pair == (again, again)


async def test_what_a_plain_factory_makes_is_shared_by_event_loops() -> None:
    make, manager = counting([]), ResourceManager()

    here = await manager.get(Resource(make))

    assert await asyncio.to_thread(on_new_loop, manager.get(Resource(make))) is here


async def test_what_a_coroutine_makes_belongs_to_its_event_loop_and_so_does_what_is_made_of_it() -> None:
    async def connect() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def make_repository(connection: Annotated[Any, Resource(connect)]) -> list[Any]:
        return [connection]

    manager = ResourceManager()
    [here] = await manager.get(Resource(make_repository))
    [there] = await asyncio.to_thread(on_new_loop, manager.get(Resource(make_repository)))

    assert here is asyncio.get_running_loop()
    assert there is not here
    assert (await manager.get(Resource(make_repository)))[0] is here


async def test_values_of_closed_event_loops_are_let_go() -> None:
    async def connect() -> Made:
        return Made()

    manager = ResourceManager()
    await asyncio.to_thread(on_new_loop, manager.get(Resource(connect)))
    here = await manager.get(Resource(connect))

    assert manager.get_all() == {Resource(connect).name: here}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_makes_its_own(loop: asyncio.AbstractEventLoop) -> None:
    manager = ResourceManager()
    manager.set("given", "by the parent")
    assert Asking(loop).ask(manager, Resource(os.getpid)) == [os.getpid()]
    manager._processes[os.getpid()].lock.acquire()  # another thread of the parent may be just there
    ours, theirs = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            [made] = Asking(loop).ask(manager, Resource(os.getpid))
            told = made == os.getpid() and manager.get_all() == {"given": "by the parent", "getpid": made}
            os.write(theirs, b"its own" if told else repr(manager.get_all()).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)

    assert os.read(ours, 1000) == b"its own"
    os.close(ours)


# -- many ask at the same time -----------------------------------------------------------------------------------------


async def test_coroutines_that_ask_at_the_same_time_share_one_value() -> None:
    made: list[Made] = []

    async def connect() -> Made:
        made.append(Made())
        await asyncio.sleep(0)
        return made[-1]

    async def make_repository(connection: Annotated[Made, Resource(connect)]) -> list[Made]:
        await asyncio.sleep(0)
        return [connection]

    manager = ResourceManager()
    got = await asyncio.gather(*(manager.get(Resource(make_repository)) for _ in range(50)))

    assert len(made) == 1
    assert all(each is got[0] for each in got)


def test_threads_and_coroutines_that_ask_at_the_same_time_share_one_value(
    loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor
) -> None:
    made: list[Made] = []
    gate = threading.Event()

    def connect() -> Made:
        made.append(Made())
        assert gate.wait(20)
        return made[-1]

    manager = ResourceManager()
    asking = [Asking(loop) for _ in range(20)]
    asked = [threads.submit(each.ask, manager, Resource(connect)) for each in asking]
    on_loop = asyncio.run_coroutine_threadsafe(manager.get(Resource(connect)), loop)
    eventually(lambda: sum(each.waits.is_set() for each in asking) >= 19, "all but who makes it wait")
    gate.set()

    assert {id(value) for each in asked for value in each.result(20)} == {id(made[0])}
    assert on_loop.result(20) is made[0]
    assert len(made) == 1


class Refused(Exception):
    """What a database says that is down."""


def test_a_failure_is_not_kept_and_meets_all_who_waited_for_it(
    loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor
) -> None:
    calls: list[int] = []
    gate = threading.Event()

    def connect() -> str:
        calls.append(1)
        if len(calls) == 1:
            assert gate.wait(20)
            raise Refused("connection refused")
        return "connected"

    manager = ResourceManager()
    maker, waiter = Asking(loop), Asking(loop)
    making = threads.submit(maker.ask, manager, Resource(connect))
    eventually(lambda: calls, "it is being made")
    waiting = threads.submit(waiter.ask, manager, Resource(connect))
    assert waiter.waits.wait(20)
    gate.set()

    for failed in (making, waiting):
        with pytest.raises(Refused, match="connection refused") as caught:
            failed.result(20)
        assert caught.value.__notes__ == [f"raised while resource {Resource(connect).name} was made"]
    assert Asking(loop).ask(manager, Resource(connect)) == ["connected"]
    assert len(calls) == 2


def test_when_who_makes_it_is_cancelled_the_next_who_waits_makes_it(
    loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor
) -> None:
    calls: list[int] = []

    async def connect() -> str:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.sleep(3600)
        return "connected"

    manager = ResourceManager()
    maker, waiter = Asking(loop), Asking(loop)
    making = threads.submit(maker.ask, manager, Resource(connect))
    eventually(lambda: calls, "it is being made")
    waiting = threads.submit(waiter.ask, manager, Resource(connect))
    assert waiter.waits.wait(20)
    maker.cancels[0]()

    with pytest.raises(CancelledError):
        making.result(20)
    assert waiting.result(20) == ["connected"]


def test_who_waits_can_be_cancelled_and_the_making_goes_on(
    loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor
) -> None:
    gate = threading.Event()
    begun = threading.Event()

    def connect() -> str:
        begun.set()
        assert gate.wait(20)
        return "connected"

    manager = ResourceManager()
    making = threads.submit(Asking(loop).ask, manager, Resource(connect))
    assert begun.wait(20)
    waiter = Asking(loop)
    waiting = threads.submit(waiter.ask, manager, Resource(connect))
    on_loop = asyncio.run_coroutine_threadsafe(asyncio.wait_for(manager.get(Resource(connect)), 0.05), loop)
    assert waiter.waits.wait(20)
    waiter.cancels[0]()

    with pytest.raises(CancelledError):
        waiting.result(20)
    with pytest.raises(TimeoutError):
        on_loop.result(20)
    gate.set()
    assert making.result(20) == ["connected"]


@pytest.mark.parametrize("colour", ["plain", "async"])
def test_making_counts_against_the_time_limit_of_the_step(loop: asyncio.AbstractEventLoop, colour: str) -> None:
    def spin() -> None:
        while True:
            pass

    async def dawdle() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(StepTimeoutError, match=r"'go' of run 'run-1' took longer than its timeout of 0\.1 s"):
        Asking(loop, timeout_seconds=0.1).ask(ResourceManager(), Resource(spin if colour == "plain" else dawdle))


def test_waiting_counts_against_the_time_limit_too_but_only_the_waiters(
    loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor
) -> None:
    gate = threading.Event()
    begun = threading.Event()

    def connect() -> str:
        begun.set()
        assert gate.wait(20)
        return "connected"

    manager = ResourceManager()
    making = threads.submit(Asking(loop).ask, manager, Resource(connect))
    assert begun.wait(20)

    with pytest.raises(StepTimeoutError):
        Asking(loop, timeout_seconds=0.05).ask(manager, Resource(connect))
    gate.set()
    assert making.result(20) == ["connected"]

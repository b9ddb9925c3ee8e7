"""Which threads, event loops and forked children share a resource, and how waiting for one can end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

import pytest

from support.eventually import eventually
from support.store.driving import work_on
from umbel.orchestration.connection.portal import CallerThread, Portal
from umbel.orchestration.model.errors import StepTimeoutError
from umbel.orchestration.model.work_item import Held
from umbel.tasks.attempt.calling import Calling
from umbel.tasks.attempt.running import Running
from umbel.tasks.resources.resolution import ResourceManager
from umbel.tasks.resources.resource import Resource
from umbel.tasks.steps.signature import ResourceDefinition

T = TypeVar("T")


class Made:
    """A class without behavior."""


def counting(made: list[Made]) -> Callable[[], Made]:
    """Return a factory that records what it creates."""

    def make() -> Made:
        made.append(Made())
        return made[-1]

    return make


class ObservedRunning(Running):
    """An attempt that signals when its first call on the event loop has begun."""

    def __init__(self) -> None:
        super().__init__(Held("run-1", "work-1", "claim-1"))
        self.has_begun = threading.Event()

    def on_cancel(self, cancel: Callable[[], None] | None) -> None:
        super().on_cancel(cancel)
        if cancel is not None:
            self.has_begun.set()


class Asking:
    """A thread that executes a plain step: it creates resources as `call_step` does.

    Once `running.has_begun` is set, anything that the loop does next comes after the step has asked for its resources:
    it creates them, or waits for another step that does.
    """

    def __init__(self, portal: Portal, timeout_seconds: float | None = None) -> None:
        self.portal, self.timeout_seconds = portal, timeout_seconds
        self.running = ObservedRunning()

    def ask(self, manager: ResourceManager, *resources: Resource) -> list[Any]:
        definitions = [ResourceDefinition(f"r{n}", Any, resource) for n, resource in enumerate(resources)]

        async def make(caller: CallerThread) -> list[Any]:
            loop = asyncio.get_running_loop()
            calling = Calling(work_on("go", run_id="run-1"), self.running, caller, loop, self.timeout_seconds)
            found = await calling.awaited(lambda: manager.values(definitions, calling.plain))
            return list(found.values())

        return self.portal.serve(make)


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal("test-resources")
    yield portal
    portal.close()


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def on_new_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new loop, from inside a test that may already have one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def test_what_is_not_kept_is_made_once_for_each_execution_and_shared_in_it(portal: Portal) -> None:
    made: list[Made] = []
    make, manager = counting(made), ResourceManager()

    def make_pair(
        left: Annotated[Made, Resource(make, cache=False)], right: Annotated[Made, Resource(make, cache=False)]
    ) -> tuple[Made, Made]:
        return left, right

    def execute() -> list[Any]:
        return Asking(portal).ask(manager, Resource(make, cache=False), Resource(make_pair, cache=False))

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
def test_a_forked_child_makes_its_own(portal: Portal) -> None:
    manager = ResourceManager()
    manager.set("given", "by the parent")
    assert Asking(portal).ask(manager, Resource(os.getpid)) == [os.getpid()]
    manager._processes[os.getpid()].lock.acquire()  # another thread of the parent may hold it at that moment
    ours, theirs = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            [made] = Asking(portal).ask(manager, Resource(os.getpid))
            is_its_own = made == os.getpid() and manager.get_all() == {"given": "by the parent", "getpid": made}
            os.write(theirs, b"its own" if is_its_own else repr(manager.get_all()).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)

    assert os.read(ours, 1000) == b"its own"
    os.close(ours)


# -- concurrent requests -----------------------------------------------------------------------------------------------


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
    portal: Portal, threads: ThreadPoolExecutor
) -> None:
    made: list[Made] = []
    gate = threading.Event()

    def connect() -> Made:
        made.append(Made())
        assert gate.wait(20)
        return made[-1]

    manager = ResourceManager()
    asking = [Asking(portal) for _ in range(20)]
    asked = [threads.submit(each.ask, manager, Resource(connect)) for each in asking]
    on_loop = asyncio.run_coroutine_threadsafe(manager.get(Resource(connect)), portal.loop)
    eventually(lambda: all(each.running.has_begun.is_set() for each in asking), "all have asked")
    gate.set()

    assert {id(value) for each in asked for value in each.result(20)} == {id(made[0])}
    assert on_loop.result(20) is made[0]
    assert len(made) == 1


class Refused(Exception):
    """The error of a database that is down."""


def test_a_failure_is_not_kept_and_meets_all_who_waited_for_it(portal: Portal, threads: ThreadPoolExecutor) -> None:
    calls: list[int] = []
    gate = threading.Event()

    def connect() -> str:
        calls.append(1)
        if len(calls) == 1:
            assert gate.wait(20)
            raise Refused("connection refused")
        return "connected"

    manager = ResourceManager()
    maker, waiter = Asking(portal), Asking(portal)
    making = threads.submit(maker.ask, manager, Resource(connect))
    eventually(lambda: calls, "it is being made")
    waiting = threads.submit(waiter.ask, manager, Resource(connect))
    assert waiter.running.has_begun.wait(20)
    gate.set()

    for failed in (making, waiting):
        with pytest.raises(Refused, match="connection refused") as caught:
            failed.result(20)
        assert caught.value.__notes__ == [f"raised while creating resource {Resource(connect).name}"]
    assert Asking(portal).ask(manager, Resource(connect)) == ["connected"]
    assert len(calls) == 2


def test_when_the_maker_is_cancelled_the_next_waiter_makes_it(portal: Portal, threads: ThreadPoolExecutor) -> None:
    calls: list[int] = []

    async def connect() -> str:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.sleep(3600)
        return "connected"

    manager = ResourceManager()
    maker, waiter = Asking(portal), Asking(portal)
    making = threads.submit(maker.ask, manager, Resource(connect))
    eventually(lambda: calls, "it is being made")
    waiting = threads.submit(waiter.ask, manager, Resource(connect))
    assert waiter.running.has_begun.wait(20)
    maker.running.cancel("the run has ended")

    with pytest.raises(CancelledError):
        making.result(20)
    assert waiting.result(20) == ["connected"]


def test_a_waiter_can_be_cancelled_and_the_making_continues(portal: Portal, threads: ThreadPoolExecutor) -> None:
    gate = threading.Event()
    begun = threading.Event()

    def connect() -> str:
        begun.set()
        assert gate.wait(20)
        return "connected"

    manager = ResourceManager()
    making = threads.submit(Asking(portal).ask, manager, Resource(connect))
    assert begun.wait(20)
    waiter = Asking(portal)
    waiting = threads.submit(waiter.ask, manager, Resource(connect))
    on_loop = asyncio.run_coroutine_threadsafe(asyncio.wait_for(manager.get(Resource(connect)), 0.05), portal.loop)
    assert waiter.running.has_begun.wait(20)
    waiter.running.cancel("the run has ended")

    with pytest.raises(CancelledError):
        waiting.result(20)
    with pytest.raises(TimeoutError):
        on_loop.result(20)
    gate.set()
    assert making.result(20) == ["connected"]


@pytest.mark.parametrize("colour", ["plain", "async"])
def test_making_counts_against_the_time_limit_of_the_step(portal: Portal, colour: str) -> None:
    def spin() -> None:
        while True:
            pass

    async def dawdle() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(StepTimeoutError, match=r"'go' of run 'run-1' took longer than its timeout of 0\.1 s"):
        Asking(portal, timeout_seconds=0.1).ask(ResourceManager(), Resource(spin if colour == "plain" else dawdle))


def test_waiting_counts_against_the_time_limit_too_but_only_the_waiters(
    portal: Portal, threads: ThreadPoolExecutor
) -> None:
    gate = threading.Event()
    begun = threading.Event()

    def connect() -> str:
        begun.set()
        assert gate.wait(20)
        return "connected"

    manager = ResourceManager()
    making = threads.submit(Asking(portal).ask, manager, Resource(connect))
    assert begun.wait(20)

    with pytest.raises(StepTimeoutError):
        Asking(portal, timeout_seconds=0.05).ask(manager, Resource(connect))
    gate.set()
    assert making.result(20) == ["connected"]

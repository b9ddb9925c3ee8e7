"""The portal: blocking callers and other event loops share one loop, whatever they do to it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from types import FrameType

import pytest

from support.eventually import eventually
from umbel.orchestration.connection.portal import CallerThread, Portal

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal("portal-under-test")
    yield made
    made.close()


async def thread_name() -> str:
    return threading.current_thread().name


def test_a_blocking_call_runs_on_the_thread_of_the_portal(portal: Portal) -> None:
    assert portal.call(thread_name()) == "portal-under-test"


async def test_a_coroutine_may_be_awaited_from_another_loop(portal: Portal) -> None:
    assert await portal.run(thread_name()) == "portal-under-test"


def test_a_blocking_call_on_its_own_loop_is_refused_instead_of_waiting_for_itself(portal: Portal) -> None:
    async def call() -> str:
        return portal.call(thread_name())

    with pytest.raises(RuntimeError, match="Await it instead"):
        portal.call(call())


def test_a_blocking_call_raises_what_its_coroutine_raises_and_keeps_nothing_of_it(portal: Portal) -> None:
    class Fault(Exception):
        pass

    async def fail() -> None:
        raise fault

    fault = Fault()
    gone = weakref.ref(fault)
    with pytest.raises(Fault):
        portal.call(fail())
    fault = Fault()
    eventually(lambda: gone() is None, "nothing refers to the error")


def test_a_coroutine_that_is_cancelled_ends_the_blocking_call(portal: Portal) -> None:
    async def cancel_itself() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(0)

    with pytest.raises(CancelledError):
        portal.call(cancel_itself())


def test_a_blocking_call_has_the_context_of_its_caller(portal: Portal) -> None:
    async def see() -> str:
        return colour.get()

    def call() -> str:
        colour.set("blue")
        return portal.call(see())

    assert contextvars.copy_context().run(call) == "blue"


def test_what_interrupts_the_waiting_thread_is_raised_and_cancels_the_coroutine(portal: Portal) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    async def wait() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise

    was_cancelled = threading.Event()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Interrupt):
            portal.call(wait())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert was_cancelled.wait(10)


def test_plain_functions_are_called_in_the_thread_that_waits(portal: Portal) -> None:
    async def ask(caller: CallerThread) -> int:
        return await caller.run(threading.get_ident)

    assert portal.serve(ask) == threading.get_ident()


def test_context_variables_that_a_plain_function_sets_stay_inside_it(portal: Portal) -> None:
    async def ask(caller: CallerThread) -> None:
        await caller.run(lambda: colour.set("red"))

    portal.serve(ask)

    assert colour.get() == "none"


def test_sys_exit_in_a_task_does_not_end_the_loop(portal: Portal) -> None:
    async def leave() -> None:
        sys.exit(3)

    async def begin() -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(leave())

    left = portal.call(begin())

    assert portal.call(thread_name()) == "portal-under-test"
    assert isinstance(left.exception(), SystemExit)


def test_a_call_that_is_under_way_when_the_portal_closes_ends(portal: Portal) -> None:
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    future = portal.submit(wait())
    assert begun.wait(20)
    portal.close()

    assert future.cancelled() or future.exception(20) is not None


def test_a_forked_child_starts_a_loop_of_its_own(portal: Portal) -> None:
    portal.call(thread_name())
    child = os.fork()
    if not child:
        os._exit(0 if portal.call(thread_name()) == "portal-under-test" else 1)

    assert os.waitpid(child, 0)[1] == 0

"""The portal: blocking callers and other event loops reach one loop, whatever they do to it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from umbel.orchestration.store.portal import CallerThread, Portal

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

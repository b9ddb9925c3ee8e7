"""A coroutine awaited in its own context, inside the task that awaits it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from umbel.tasks.attempt.calling import Isolated

colour: ContextVar[str] = ContextVar("colour", default="none")


async def test_what_it_sets_stays_inside_across_awaits() -> None:
    async def paint() -> str:
        colour.set("red")
        await asyncio.sleep(0)
        return colour.get()

    assert await Isolated(paint()) == "red"
    assert colour.get() == "none"


async def test_it_sees_what_was_set_around_it_and_runs_in_the_same_task() -> None:
    token = colour.set("blue")

    async def look() -> tuple[str, asyncio.Task[object] | None]:
        await asyncio.sleep(0)
        return colour.get(), asyncio.current_task()

    assert await Isolated(look()) == ("blue", asyncio.current_task())
    colour.reset(token)


async def test_its_exceptions_come_out_and_those_of_what_it_awaits_go_in() -> None:
    async def broken() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    async def careful() -> str:
        try:
            await broken()
        except ValueError as error:
            return str(error)
        return "fine"

    with pytest.raises(ValueError, match="broken"):
        await Isolated(broken())
    assert await Isolated(careful()) == "broken"


async def test_time_limits_and_cancellation_reach_it() -> None:
    noted: list[str] = []

    async def wait() -> None:
        colour.set("inside")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            noted.append(f"cancelled while {colour.get()}")
            raise

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Isolated(wait())
    task = asyncio.ensure_future(_await(wait()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert noted == ["cancelled while inside"] * 2


async def _await(coroutine: object) -> None:
    await Isolated(coroutine)  # type: ignore[arg-type]

"""The stored part of a failed step's traceback: the user's frames, no passwords, and a bounded size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from umbel.tasks.events.tracebacks import step_traceback
from umbel.tasks.state.paths import split_path


def raised(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def test_a_traceback_has_the_frames_of_the_step_and_the_error_with_its_cause() -> None:
    def charge() -> None:
        try:
            {}["amount"]
        except KeyError as missing:
            raise ValueError("no amount") from missing

    text = step_traceback(raised(charge))

    assert "KeyError: 'amount'\n\nThe above exception was the direct cause" in text
    assert 'raise ValueError("no amount") from missing' in text
    assert text.endswith("\nValueError: no amount")


def test_frames_of_umbel_and_of_what_executes_steps_are_left_out() -> None:
    text = step_traceback(raised(lambda: split_path(3)))  # type: ignore[arg-type]

    assert "paths.py" not in text
    assert "split_path(3)" in text


def test_what_executes_steps_is_left_out_above_them_and_kept_below() -> None:
    async def step() -> None:
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, fail), 60)

    def fail() -> None:
        raise ValueError("inside a loop")

    error = raised(lambda: asyncio.run(step()))
    error.__traceback__ = error.__traceback__.tb_next.tb_next.tb_next  # type: ignore[union-attr]  # as if asyncio.run were the worker's

    text = step_traceback(error)

    assert "runners.py" not in text
    assert "in wait_for" in text
    assert text.endswith("ValueError: inside a loop")


def test_passwords_in_urls_are_not_kept() -> None:
    def connect() -> None:
        raise ConnectionError("cannot reach postgres://me:hunter2@there/db?password=hunter2 today")

    text = step_traceback(raised(connect))

    assert "hunter2" not in text
    assert "postgres://me:***@there/db?password=*** today" in text


def test_a_long_traceback_keeps_its_beginning_and_its_end() -> None:
    def fail() -> None:
        raise ValueError("x" * 100_000 + "the end")

    text = step_traceback(raised(fail))

    assert text.startswith("Traceback (most recent call last):")
    assert "characters cut" in text
    assert text.endswith("the end")
    assert len(text) < 17_000


def test_a_deep_recursion_is_kept_briefly() -> None:
    def descend() -> None:
        descend()

    text = step_traceback(raised(descend))

    assert "RecursionError" in text
    assert len(text) < 5_000


def test_an_error_that_cannot_be_shown_still_has_a_traceback() -> None:
    class Evil(Exception):
        def __str__(self) -> str:
            raise SystemExit

    def fail() -> None:
        raise Evil

    assert step_traceback(raised(fail)).endswith("Evil: <exception str() failed>")

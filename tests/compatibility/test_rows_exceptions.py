"""Rows 47 and 48: the exceptions that callers see."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from umbel import Runtime, Workflow, step
from umbel.events import (
    StartEvent,
    StopEvent,
    UnreconstructedException,
    WorkflowFailedEvent,
)

# -- 47 ----------------------------------------------------------------------------------------------------------------


class TwoParts(Exception):
    """Its constructor takes the parts of its message."""

    def __init__(self, code: int, hint: str) -> None:
        super().__init__(code, hint)
        self.code = code

    def __str__(self) -> str:
        return f"error {self.code}"


class Picky(Exception):
    """Cannot be created from its message."""

    def __init__(self, parts: list[object]) -> None:
        super().__init__(f"{len(parts)} parts")


def failing_with(make: Any) -> type[Workflow]:
    """Return a new workflow that fails with the result of `make`."""

    class Fails(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            raise make()

    return Fails


@pytest.mark.row(47)
async def test_awaiting_raises_the_original_exception_each_time() -> None:
    handler = failing_with(lambda: ValueError("boom"))().run()

    for _ in range(2):
        with pytest.raises(ValueError, match="^boom$") as caught:
            await handler
        assert type(caught.value) is ValueError
    stream = [event async for event in handler.stream_events()]
    assert [type(event) for event in stream] == [WorkflowFailedEvent]
    assert stream[0].model_dump()["exception"] == {
        "exception_type": "builtins.ValueError",
        "exception_message": "boom",
    }


ELSEWHERE = """
import sys, umbel
try:
    umbel.attach(sys.argv[1]).result(timeout=30)
except Exception as error:
    print(type(error).__module__, type(error).__qualname__, error)
"""


@pytest.mark.row(47)
async def test_another_process_sees_the_same_exception(runtime: Runtime) -> None:
    handler = failing_with(lambda: ValueError("boom"))().run()
    with pytest.raises(ValueError, match="^boom$"):
        await handler

    url = runtime.settings.redis_url
    assert url is not None
    command = [sys.executable, "-W", "error", "-c", ELSEWHERE, handler.run_id]
    other = await asyncio.to_thread(
        subprocess.run, command, env={"UMBEL_REDIS_URL": url}, capture_output=True, text=True, timeout=110
    )

    assert (other.stdout, other.stderr) == ("builtins ValueError boom\n", "")


# -- 48 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(48)
async def test_an_exception_of_several_arguments_is_rebuilt() -> None:
    with pytest.raises(TwoParts) as caught:
        await failing_with(lambda: TwoParts(7, "read the manual"))().run()

    assert (str(caught.value), caught.value.code, caught.value.args) == ("error 7", 7, (7, "read the manual"))


@pytest.mark.row(48)
async def test_what_cannot_be_rebuilt_keeps_its_message_and_the_name_of_its_class() -> None:
    class Client(Exception):
        def __init__(self, response: object) -> None:
            super().__init__("down")
            self.response = response

        def __str__(self) -> str:
            return f"down: {type(self.response).__name__}"

    with pytest.raises(Picky, match="^2 parts$"):
        await failing_with(lambda: Picky([object(), object()]))().run()
    with pytest.raises(UnreconstructedException, match="^down: object$") as caught:
        await failing_with(lambda: Client(object()))().run()

    assert caught.value.original_type.endswith(".Client")


@pytest.mark.parametrize("name", ["antigravity.Fall", "os.system", "builtins.object", "no name at all"])
@pytest.mark.row(48)
def test_a_class_that_is_not_loaded_or_no_exception_is_no_reason_to_crash(name: str) -> None:
    dumped = {"step_name": "go", "exception": {"exception_type": name, "exception_message": "down"}}

    exception = WorkflowFailedEvent.model_validate(dumped).exception

    assert isinstance(exception, UnreconstructedException)
    assert (str(exception), exception.original_type) == ("down", name)
    assert "antigravity" not in sys.modules

"""Helpers of every case: registration, plain events, and how outcomes are compared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)

CASES: dict[str, Callable[[], Awaitable[Any]]] = {}


def case(function: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """Register a case under its name."""
    CASES[function.__name__] = function
    return function


class A(Event):
    n: int = 0


class B(Event):
    n: int = 0


class C(Event):
    n: int = 0


class SubA(A):
    """A subclass of an event."""


class Ask(InputRequiredEvent):
    question: str = "?"


class Answer(HumanResponseEvent):
    text: str = ""


class Told(Event):
    text: str


class Typed(StartEvent):
    n: int


class Done(StopEvent):
    total: int


def shown(event: Event) -> Any:
    """Return an event in the form in which it is compared."""
    return [type(event).__name__, event.model_dump(mode="json")]


def failure(error: BaseException) -> dict[str, str]:
    """Return an error in the form in which it is compared: its class, and the first line of its message."""
    return {"error": type(error).__name__, "says": str(error).split("\n")[0][:120]}


async def followed(handler: Any, answer: Callable[[Any, Event], Any] | None = None, internal: bool = False) -> Any:
    """Return what a run publishes, and its result or error."""
    events: list[Any] = []
    async for event in handler.stream_events(expose_internal=internal):
        events.append(shown(event))
        if answer is not None and isinstance(event, InputRequiredEvent):
            answer(handler, event)
    try:
        result = await handler
    except Exception as error:
        return {"events": events, **failure(error)}
    return {"events": events, "result": shown(result) if isinstance(result, Event) else result}

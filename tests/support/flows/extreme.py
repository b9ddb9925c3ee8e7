"""Extreme values passed in and out of a step in every possible way, and what arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


#: Values that arrive unchanged.
CARRIED: dict[str, Callable[[], Any]] = {
    "2^63": lambda: 2**63,
    "-2^63-1": lambda: -(2**63) - 1,
    "2^200": lambda: 2**200,
    "2^53+1": lambda: 2**53 + 1,
    "empty list": list,
    "empty dict": dict,
    "empties": lambda: {"": [], "a": {}, "b": [[], {}, ""]},
    "NUL": lambda: "a\0b",
    "line separators": lambda: "\u2028\u2029\x7f",
    "astral": lambda: "\U0001f33f" * 3,
    "small float": lambda: 5e-324,
    "minus zero": lambda: -0.0,
    "100 levels": lambda: nested(100),
    "a megabyte": lambda: "x" * (1 << 20),
    "100,000 keys": lambda: {str(n): n for n in range(100_000)},
}

#: Values that are refused, and the text of the error.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "NaN": (lambda: float("nan"), "nan"),
    "infinity": (lambda: float("-inf"), "inf"),
    "lone surrogate": (lambda: "a\ud800b", "surrogate"),
    "lone surrogate as a key": (lambda: {"\udfff": 1}, "surrogate|not JSON"),
    "1,000 levels": (lambda: nested(1_000), "levels|deeper"),
    "17 MB": (lambda: "x" * (17 << 20), "bytes, at most"),
}


def value_of(name: str) -> Any:
    return CARRIED[name]() if name in CARRIED else REFUSED[name][0]()


class Carried(Event):
    value: Any


class Answer(Event):
    key: Any


class Doors(Workflow):
    """Passes a value on in one way."""

    @step
    async def send(self, ctx: Context, ev: StartEvent) -> Carried | StopEvent | None:
        value = value_of(ev.name)
        match ev.door:
            case "returned":
                return Carried(value=value)
            case "sent":
                ctx.send_event(Carried(value=value))
                return None
            case "stored":
                await ctx.store.set("value", value)
                return StopEvent(result=await ctx.store.get("value"))
            case "published":
                ctx.write_event_to_stream(Carried(value=value))
                return StopEvent(result=None)
            case "required":
                ctx.write_event_to_stream(Event(asking=True))
                await ctx.wait_for_event(Answer, requirements={"key": value})
                return StopEvent(result="answered")
            case _:
                return StopEvent(result=value)

    @step
    async def receive(self, ev: Carried) -> StopEvent:
        return StopEvent(result=ev.value)


class FansOut(Workflow):
    @step
    async def send(self, ev: StartEvent) -> list[Carried]:
        return [Carried(value=0), Carried(value=value_of(ev.name))]

    @step
    async def gather(self, evs: list[Carried]) -> StopEvent:
        return StopEvent(result=evs[1].value)


class Wordy(Workflow):
    """Raises an exception of any size."""

    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        if ev.get("as_argument"):
            raise ValueError(["x" * ev.size])
        error = ValueError("x" * ev.size + "\ud800")
        for n in range(100):
            error.add_note(f"note {n}")
        raise error

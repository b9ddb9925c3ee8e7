"""Values of every kind, passed in every way through real runs: they arrive equal, including their types."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, create_model

from support.values.carriers import carrier, equal
from support.values.kinds import KINDS
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step

#: Values per kind: together more than 5,000.
VALUES = 63
#: Only a field can write them, so they do not fit where no type is declared.
BY_FIELD = ("written by its field", "list written by its field")


class Begun(StartEvent):
    kind: str


class Returned(Event):
    kind: str


class Sent(Event):
    kind: str


class Asked(Event):
    kind: str


class Answered(Event):
    kind: str


class Ended(StopEvent):
    kind: str


CARRIERS = {base: {k: carrier(base, k) for k in KINDS} for base in (Begun, Returned, Sent, Asked, Answered, Ended)}
#: The state has a field of every kind.
FIELDS = {kind: f"kind_{number}" for number, kind in enumerate(KINDS)}
State: Any = create_model(
    "State",
    __config__=ConfigDict(arbitrary_types_allowed=True),
    **{FIELDS[kind]: (list[of], []) for kind, (of, _) in KINDS.items()},  # type: ignore[arg-type, call-overload]
)


#: What has arrived in each way.
arrived: dict[str, Any] = {}


def as_a(base: type[BaseModel], other: Any) -> Any:
    """Return an event of this class with the values of another one."""
    return CARRIERS[base][other.kind].model_construct(**other.__dict__)


class Echo(Workflow):
    """Returns its start event's values."""

    @step(accept_event_subclasses=True)
    async def echo(self, ev: Begun) -> Ended:
        arrived["start of a child"] = ev
        return as_a(Ended, ev)  # type: ignore[no-any-return]


class Trip(Workflow):
    """Passes its start event's values on in every possible way."""

    @step(accept_event_subclasses=True)
    async def begin(self, ev: Begun) -> Returned:
        arrived["start"] = ev
        return as_a(Returned, ev)  # type: ignore[no-any-return]

    @step(accept_event_subclasses=True)
    async def send(self, ctx: Context[State], ev: Returned) -> Sent | None:
        arrived["return"] = ev
        ctx.send_event(as_a(Sent, ev))
        return None

    @step(accept_event_subclasses=True)
    async def ask(self, ctx: Context[State], ev: Sent) -> Ended:
        arrived["send"] = ev
        async with ctx.store.edit_state() as state:
            setattr(state, FIELDS[ev.kind], ev.several)
        answer = await ctx.wait_for_event(Answered, waiter_event=as_a(Asked, ev))
        arrived["answer"] = answer
        arrived["result of a child"] = await ctx.run(Echo(), start_event=as_a(Begun, ev))
        return as_a(Ended, answer)  # type: ignore[no-any-return]


async def finished(handler: Any, kind: str) -> dict[str, Any]:
    """Return what arrived in each way."""
    result = await handler
    state = await handler.ctx.store.get_state()
    return arrived | {"result": result, "state": getattr(state, FIELDS[kind])}


async def travelled(goes: Any) -> dict[str, Any]:
    """Send an event through a run, and through one that is continued from a snapshot of it; return what arrived."""
    trip = Trip(timeout=60)
    arrived.clear()
    handler: Any = trip.run(start_event=goes)
    arrived["stream"] = await anext(handler.stream_events())
    snapshot = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.send_event(as_a(Answered, goes))
    came = await finished(handler, goes.kind)

    arrived.clear()
    continued: Any = trip.run(ctx=Context.from_dict(trip, snapshot))
    await continued.send_event(as_a(Answered, goes))
    again = await finished(continued, goes.kind)
    return came | {f"{way}, from a snapshot": what for way, what in again.items()}


def values_of(kind: str) -> list[Any]:
    """Return the simplest values of a kind, and random ones."""
    found: list[Any] = []

    @settings(
        max_examples=3, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(KINDS[kind][1], min_size=VALUES // 3, max_size=VALUES // 3))
    def draw(values: list[Any]) -> None:
        found.extend(values)

    draw()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("runtime")
def test_values_arrive_equal_on_every_way(kind: str) -> None:
    values = values_of(kind)
    fields = {
        "kind": kind,
        "value": values[0],
        "several": values,
        "perhaps": values[-1],
        "named": {"a": values[-2]},
        "loose": None if kind in BY_FIELD else values[-3],
    }

    came = asyncio.run(travelled(CARRIERS[Begun][kind].model_construct(**fields)))

    assert len(came) == 15
    for way, what in came.items():
        assert equal(*(what, values) if isinstance(what, list) else (what.__dict__, fields)), way

"""Values of every kind in a run: returned, sent, published, in the state, passed to a child, and as its result."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from support.values.carriers import CARRIERS, equal, filled
from support.values.kinds import KINDS
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step

pytestmark = pytest.mark.usefixtures("runtime")

#: The values that a run carries; the steps run in this process, so their findings can be compared here.
FIELDS: dict[str, dict[str, Any]] = {}
FOUND: dict[str, list[Any]] = {}


class State(BaseModel):
    value: Any = None
    shape: dict[str, Any] = {}


class Sent(Event):
    value: Any


class Last(Event):
    pass


class Echo(Workflow):
    @step
    async def echo(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.sent)


class Chain(Workflow):
    @step
    async def make(self, ctx: Context[State], ev: StartEvent) -> Sent:
        fields = FIELDS[ev.kind]
        async with ctx.store.edit_state() as state:
            state.value, state.shape = fields["value"], fields
        ctx.write_event_to_stream(CARRIERS[ev.kind].model_construct(**fields))
        return Sent(value=CARRIERS[ev.kind].model_construct(**fields), kind=ev.kind, dynamic=fields["value"])

    @step
    async def send(self, ctx: Context[State], ev: Sent) -> Last | None:
        state = await ctx.store.get_state()
        FOUND[ev.kind] += [state.value, state.shape, ev.value, ev.dynamic]
        ctx.send_event(Last(sent=ev.value, kind=ev.kind))
        return None

    @step
    async def end(self, ctx: Context[State], ev: Last) -> StopEvent:
        FOUND[ev.kind] += [await ctx.run(Echo(), sent=ev.sent), ev.sent]
        return StopEvent(result=FIELDS[ev.kind])


#: Only their field can write them: they fit neither dynamic data nor the state of these runs.
_BY_FIELD = ("written by its field", "list written by its field")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in _BY_FIELD])
def test_what_goes_through_a_run_comes_out_equal(kind: str) -> None:
    @settings(
        max_examples=2, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(KINDS[kind][1], min_size=2, max_size=2))
    def check(values: list[Any]) -> None:
        fields = FIELDS[kind] = filled(kind, values)
        FOUND[kind] = []
        carrier: Any = CARRIERS[kind].model_construct(**fields)

        handler = Chain(timeout=30).start(kind=kind)

        assert equal(handler.result(timeout=30), fields)
        [published] = [event for event in handler.events() if not isinstance(event, StopEvent)]
        assert equal(published, carrier)
        through = [fields["value"], fields, carrier, fields["value"], carrier, carrier]
        for found, expected in zip(FOUND[kind], through, strict=True):
            assert equal(found, expected)

    check()

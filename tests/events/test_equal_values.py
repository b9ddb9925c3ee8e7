"""Whatever kind of field a value is in: it comes back equal in type and value, or is refused where it is sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.values.kinds import CARRIERS, KINDS, equal, filled
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.envelope import Envelope
from umbel.tasks.events.codec import EventRegistry, decode_event, encode_event
from umbel.tasks.events.event import Event, StopEvent
from umbel.tasks.events.serializers import JsonSerializer

LIMITS = Settings()
REGISTRY = EventRegistry.of([])


def _sent(event: Event) -> Any:
    return decode_event(Envelope.from_bytes(encode_event(event, LIMITS).to_bytes()), REGISTRY)


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_every_kind_come_back_equal(kind: str) -> None:
    cls = CARRIERS[kind]

    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(KINDS[kind][1], min_size=2, max_size=2))
    def check(values: list[Any]) -> None:
        fields = filled(kind, values)
        event: Any = cls.model_construct(**fields)
        again = _sent(event)
        assert equal(again, event), (again, event)
        if "written by its field" in kind:
            return
        assert equal(_sent(Event(x=values)).x, values)
        assert equal(_sent(StopEvent(result=values)).result, values)
        text = JsonSerializer().serialize(fields)
        assert equal(JsonSerializer().deserialize(text), fields)

    check()

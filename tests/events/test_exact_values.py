"""A value in any kind of field comes back equal in type and value, or is refused where it is sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, SecretStr, field_validator

from support.values.carriers import CARRIERS, equal, filled
from support.values.kinds import KINDS, Cat, Circle
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.model.errors import ContextSerdeError, UnserializableValue
from umbel.orchestration.model.tagged_json import untagged
from umbel.tasks.events.codec import EventMismatch, EventRegistry, decode_event, encode_event
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


# -- other releases, other classes -------------------------------------------------------------------------------------


class Doubled(Event):
    n: int
    shape: Any = None

    @field_validator("n")
    @classmethod
    def _double(cls, n: int) -> int:
        return 2 * n


NAME = f"{__name__}.Doubled"


def test_what_an_earlier_release_stored_is_read_as_it_was_then() -> None:
    stored = Envelope(NAME, (), b'{"n":2,"shape":{"name":"x"},"_data":{"pair":[1,2]}}')

    assert decode_event(stored, REGISTRY) == Doubled(n=2, shape={"name": "x"}, pair=[1, 2])


def test_an_earlier_release_finds_the_json_that_it_wrote_itself() -> None:
    payload = json.loads(encode_event(Doubled(n=2, shape=Circle(radius=2), pair=(1, 2)), LIMITS).payload)

    assert {name: payload[name] for name in ("n", "shape")} == {"n": 4, "shape": {"name": "s", "radius": 2.0}}
    assert untagged(payload["_data"]) == {"pair": [1, 2]}
    assert Envelope(NAME, (), json.dumps(payload).encode()).value().keys() == {"n", "shape", "_data"}


def test_plain_fields_are_stored_as_before() -> None:
    class Usual(Event):
        name: str
        at: datetime
        tags: list[str] = Field(default_factory=list)
        cat: Cat | None = None

    event = Usual(name="a", at=datetime(2026, 1, 2, tzinfo=UTC), tags=["x"], cat=Cat(name="c"), more=1)

    assert json.loads(encode_event(event, LIMITS).payload) == {
        "name": "a",
        "at": "2026-01-02T00:00:00Z",
        "tags": ["x"],
        "cat": {"name": "c"},
        "_data": {"more": 1},
    }


def test_after_a_change_of_the_class_what_is_stored_is_validated() -> None:
    sent = encode_event(Doubled(n=2, shape=Circle()), LIMITS)
    changed = Envelope(sent.type, sent.parents, sent.payload.replace(b'"v":"', b'"v":"another', 1))

    again = decode_event(changed, REGISTRY)

    assert isinstance(again, Doubled)
    assert (again.n, again.shape) == (8, Circle())  # its validators handled it as new data
    with pytest.raises(EventMismatch, match="n: Input should be a valid integer"):
        decode_event(Envelope(sent.type, (), changed.payload.replace(b'"n":4', b'"n":"x"')), REGISTRY)


def test_a_class_that_is_not_loaded_is_named_by_the_reader() -> None:
    sent = encode_event(Doubled(n=2, shape=Circle()), LIMITS)
    unknown = Envelope(sent.type, (), sent.payload.replace(b"kinds.Circle", b"gone.Circle"))

    with pytest.raises(EventMismatch, match=r"support\.values\.gone\.Circle, which is not loaded.*import"):
        decode_event(unknown, REGISTRY)


def test_what_data_from_outside_say_of_classes_is_only_data() -> None:
    marks = {"v": "00000000", "in": {"shape": {"t": f"{Circle.__module__}.Circle", "v": "0"}}}
    outside = Doubled.model_validate({"n": 1, "__exact": marks, "shape": {"__is_pydantic": True, "value": {}}})

    again = _sent(outside)

    assert again.shape == {"__is_pydantic": True, "value": {}}
    assert again.to_dict() == {"__exact": marks}


def test_data_from_outside_make_no_class_that_is_not_allowed() -> None:
    text = JsonSerializer().serialize({"a": Circle(), "b": (1, {2}), "c": Doubled(n=1, shape=Circle())})

    with pytest.raises(ContextSerdeError, match="does not allow"):
        JsonSerializer(allowed_types=[Doubled]).deserialize(text)
    mine = JsonSerializer().serialize([(1, {2}), Doubled(n=1, shape=Circle())])
    pair, event = JsonSerializer(allowed_types=[Doubled]).deserialize(mine)
    assert pair == (1, {2})
    assert event.shape == {"name": "s", "radius": 1.0}


def test_a_secret_is_refused() -> None:
    with pytest.raises(UnserializableValue, match=r"'value\.key' holds a pydantic\.types\.SecretStr.*Resource"):
        encode_event(Event(value={"key": SecretStr("x")}), LIMITS)

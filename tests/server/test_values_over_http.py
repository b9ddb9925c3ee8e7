"""Values of every kind over HTTP, where an event is JSON without the names of nested classes."""

from __future__ import annotations

import enum
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.values.carriers import CARRIERS, equal, filled
from support.values.kinds import KINDS, Colour, Plain
from umbel.orchestration.connection.settings import Settings
from umbel.server.http.parsing import parse_event
from umbel.server.http.protocol import event_json
from umbel.tasks.events.codec import encode_event
from umbel.tasks.values.exact_values import write_exact

#: umbel's JSON has more than pydantic's: all fields of a subclass or an event, and keys that are equal as text.
_MORE = ("mixed keys", "event")
#: Their content has no declared type, so both sides choose their own form.
_UNDECLARED = ("Any", "object", "bare list", "bare dict")
#: One of its fields may hold anything: values without a JSON number have a different form on each side.
_HOLDS_ANY = "dataclass"
#: Pydantic cannot read them.
_OFFSET_WITH_SECONDS = re.compile(r"[+-]\d\d:\d\d:\d\d")


class Range(enum.Enum):
    OPEN = (0, float("inf"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in _MORE + _UNDECLARED])
def test_an_event_over_http_is_what_pydantic_makes_of_its_json(kind: str) -> None:
    """Clients write and read events with pydantic."""
    cls: Any = CARRIERS[kind]

    @settings(
        max_examples=33, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(KINDS[kind][1], min_size=2, max_size=2))
    def check(values: list[Any]) -> None:
        event: Any = cls.model_construct(**filled(kind, values) | {"loose": None})
        written = event_json(encode_event(event, Settings()))
        try:
            text = event.model_dump_json()
            expected = cls.model_validate_json(text)
        except Exception:
            return  # JSON alone does not restore it
        if expected.model_dump_json() != text or _OFFSET_WITH_SECONDS.search(written.decode()):
            return
        if kind == _HOLDS_ANY and re.search("Infinity|NaN", written.decode()):
            return

        sent = parse_event({"type": cls.__name__, "value": json.loads(text)}, {cls.__name__: cls})
        assert equal(sent, expected)

        read = json.loads(written)
        assert read["type"] == cls.__name__
        assert equal(cls.model_validate_json(json.dumps(read["value"])), expected)

    check()


def test_a_member_of_an_enum_is_its_value_over_http_whatever_that_is_made_of() -> None:
    event: Any = CARRIERS["dataclass"].model_construct(
        **filled("dataclass", [Plain(1, Colour.BLUE), Plain(2, Colour.RED)])
    )
    written = json.loads(event_json(encode_event(event, Settings())))
    assert written["value"]["several"] == [{"a": 1, "inner": ["b", 2]}, {"a": 2, "inner": "red"}]


def test_a_member_whose_value_json_does_not_have_is_its_name() -> None:
    assert write_exact(Range.OPEN)[0] == "OPEN"

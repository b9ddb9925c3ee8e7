"""Values that an event cannot carry are refused where it is sent, and the error names the place."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.errors import PayloadTooLarge, UnserializableValue
from umbel.tasks.events.codec import EventRegistry, decode_event, encode_event, event_name
from umbel.tasks.events.event import Event, StopEvent

LIMITS = Settings()


class Anything(Event):
    value: Any = None


@dataclass
class Plain:
    x: object = 0


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep(levels: int) -> list[Any]:
    deep: list[Any] = []
    for _ in range(levels - 1):
        deep = [deep]
    return deep


class Inner(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    things: list[Any]


class Outer(Event):
    inner: Inner


@pytest.mark.parametrize(
    ("event", "place", "problem"),
    [
        (Event(a={"b": [0, object()]}), "'a.b[1]'", "builtins.object"),
        (Event(a={1: {2: object()}}), "'a.1.2'", "builtins.object"),
        (Event(a=math.nan), "'a'", "nan"),
        (Event(a=[math.inf]), "'a[0]'", "inf"),
        (Event(a="\ud800"), "'a'", "U+D800"),
        (Event(a={"\udfff": 1}), "'a'", "a key with half a surrogate pair (U+DFFF)"),
        (Event(a=10**5000), "'a'", "too long to write"),
        (Event(a=_circle()), "'a[0][0]", "contains itself"),
        (Event(a=_deep(250)), "'a[0][0]", "deeper than 200 levels"),
        (Event(a=Inner(things=[object()])), "'a.things[0]'", "builtins.object"),
        (StopEvent(result=[Plain(object())]), "'result[0].x'", "builtins.object"),
        (Anything(value=object()), "'value'", "builtins.object"),
        (Anything(value={"a": (1, [object()])}), "'value.a[1][0]'", "builtins.object"),
        (Anything(value=math.nan), "'value'", "nan"),
        (Anything(value="a\udc00"), "'value'", "U+DC00"),
        (Anything(value=_circle()), "'value[0][0]", "contains itself"),
        (Anything(value=_deep(230)), "'value[0][0]", "deeper than 200 levels"),
        (Anything(value=_deep(400)), "'value'", "deeper than 200 levels"),
        (Outer(inner=Inner(things=[1, {"x": object()}])), "'inner.things[1].x'", "builtins.object"),
    ],
)
def test_what_json_cannot_carry_is_refused_with_the_place(event: Event, place: str, problem: str) -> None:
    with pytest.raises(UnserializableValue) as caught:
        encode_event(event, LIMITS)

    text = str(caught.value)
    assert text.startswith(f"{event_name(type(event))} cannot be sent: {place}")
    assert problem in text
    assert len(text) < 600


def test_nesting_up_to_the_limit_is_fine() -> None:
    # the payload and `_data` are two levels
    assert decode_event(encode_event(Event(deep=_deep(198)), LIMITS), EventRegistry.of()) == Event(deep=_deep(198))
    assert decode_event(encode_event(Anything(value=_deep(199)), LIMITS), EventRegistry.of()) == Anything(
        value=_deep(199)
    )
    with pytest.raises(UnserializableValue, match="deeper than 200"):
        encode_event(Event(deep=_deep(199)), LIMITS)
    with pytest.raises(UnserializableValue, match="deeper than 200"):
        encode_event(Anything(value=_deep(200)), LIMITS)


def test_a_large_event_is_logged_once_per_class(caplog: pytest.LogCaptureFixture) -> None:
    class Large(Event):
        text: str

    limits = Settings(payload_warn_bytes=100, payload_max_bytes=1000)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            encode_event(Large(text="x" * 200), limits)
        encode_event(Large(text="x"), limits)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Large has 211 bytes, more than 100" in caplog.text


def test_a_too_large_event_is_refused_by_name_and_size() -> None:
    limits = Settings(payload_warn_bytes=100, payload_max_bytes=1000)

    encode_event(Event(text="x" * 975), limits)
    with pytest.raises(PayloadTooLarge, match=r"umbel\.Event cannot be sent: it has 1,020 bytes, at most 1,000"):
        encode_event(Event(text="x" * 999), limits)

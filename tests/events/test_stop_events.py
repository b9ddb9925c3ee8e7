"""Stop events and their results."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, model_serializer

from umbel.orchestration.connection.settings import Settings
from umbel.tasks.events.codec import EventRegistry, decode_event, encode_event
from umbel.tasks.events.event import StopEvent


class Report(StopEvent):
    pages: int


class Typed(StopEvent):
    result: str


@pytest.mark.parametrize(
    ("event", "dumped", "shown", "text"),
    [
        (StopEvent(), {}, "StopEvent()", "None"),
        (StopEvent("x"), {"result": "x"}, "StopEvent(result='x')", "x"),
        (StopEvent(result=0), {"result": 0}, "StopEvent(result=0)", "0"),
        (
            StopEvent({"a": 1}, b=2),
            {"result": {"a": 1}, "_data": {"b": 2}},
            "StopEvent(b=2, result={'a': 1})",
            "{'a': 1}",
        ),
        (Report(pages=2), {"pages": 2}, "Report(pages=2)", "None"),
        (Report(pages=2, result=4), {"pages": 2, "result": 4}, "Report(pages=2, result=4)", "4"),
        (Typed(result="x"), {"result": "x"}, "Typed(result='x')", "x"),
    ],
)
def test_a_stop_event_shows_its_result(event: StopEvent, dumped: dict[str, Any], shown: str, text: str) -> None:
    assert event.model_dump() == dumped
    assert repr(event) == shown
    assert str(event) == text
    assert type(event).model_validate(dumped) == event
    assert type(event).model_validate_json(event.model_dump_json()) == event


def test_a_result_is_no_dynamic_data() -> None:
    event = StopEvent(result=1)

    assert event.result == 1
    assert len(event) == 0
    assert "result" not in event

    event.result = 2  # type: ignore[misc]

    assert event.model_dump() == {"result": 2}
    assert StopEvent().result is None


def test_get_result_may_be_overridden() -> None:
    class Computed(StopEvent):
        pages: int

        def _get_result(self) -> Any:
            return self.pages * 2

    assert Computed(pages=2).result == 4
    assert Computed(pages=2).model_dump() == {"pages": 2}


def test_a_declared_result_is_required() -> None:
    with pytest.raises(ValidationError, match="result"):
        Typed()  # type: ignore[call-arg]


def test_a_result_of_any_type_dumps_as_pydantic_writes_it() -> None:
    class Customer(BaseModel):
        name: str

    assert StopEvent(Customer(name="Ada")).model_dump(mode="json") == {"result": {"name": "Ada"}}
    assert StopEvent(Customer(name="Ada")).result == Customer(name="Ada")
    assert StopEvent(1).model_dump(exclude={"result"}) == {}


def test_a_serializer_of_a_subclass_does_not_lose_result_and_dynamic_data() -> None:
    class Terse(StopEvent):
        pages: int

        @model_serializer
        def _terse(self) -> dict[str, Any]:
            return {"pages": self.pages}

    event = Terse(pages=2, result={"a": 1}, note="x")

    assert event.model_dump() == {"pages": 2}
    assert decode_event(encode_event(event, Settings()), EventRegistry.of()) == event

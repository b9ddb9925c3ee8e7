"""Stored events name their classes: which names resolve, which are errors, and that nothing is ever imported."""

from __future__ import annotations

import json
import sys
import types

import pytest
from pydantic import BaseModel, Field

from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.model.errors import UnknownEvent, WorkflowValidationError
from umbel.tasks.events.codec import EventMismatch, EventRegistry, decode_event, encode_event, event_name
from umbel.tasks.events.event import BUILT_IN_EVENTS, Event, StopEvent
from umbel.tasks.values.json_values import from_json_value


class Customer(BaseModel):
    name: str


class Base(Event):
    number: int


class Order(Base):
    seen: set[int] = Field(default_factory=set)


REGISTRY = EventRegistry.of([Order, Base])


def test_a_class_that_is_loaded_but_not_registered_is_found() -> None:
    class Local(Event):
        x: int

    assert decode_event(encode_event(Local(x=1), Settings()), EventRegistry.of()) == Local(x=1)


def test_an_unknown_event_names_itself_and_the_known_ones() -> None:
    with pytest.raises(UnknownEvent) as caught:
        decode_event(Envelope("shop.gone.Lost", (), b"{}"), EventRegistry.of([Order, Base]))

    assert "'shop.gone.Lost'" in str(caught.value)
    assert event_name(Order) in str(caught.value)
    assert "Import the module" in str(caught.value)


def test_names_in_stored_data_import_nothing() -> None:
    unloaded = "xmlrpc.server"
    sys.modules.pop(unloaded, None)
    lazy = types.ModuleType("lazy_shop")
    lazy.__getattr__ = lambda name: pytest.fail(f"{name} was asked for")  # type: ignore[method-assign]
    sys.modules["lazy_shop"] = lazy
    try:
        for name in (f"{unloaded}.Fault", "lazy_shop.Lost"):
            with pytest.raises(UnknownEvent):
                decode_event(Envelope(name, (), b"{}"), REGISTRY)
            tagged = {"__is_pydantic": True, "value": {"a": 1}, "qualified_name": name}
            assert from_json_value(tagged) == {"a": 1}
    finally:
        del sys.modules["lazy_shop"]
    assert unloaded not in sys.modules


def test_a_tagged_value_is_only_ever_a_pydantic_model() -> None:
    tagged = {"__is_pydantic": True, "value": {"args": "true"}, "qualified_name": "subprocess.Popen"}

    assert from_json_value(tagged) == {"args": "true"}


def test_the_built_in_events_are_always_registered() -> None:
    assert EventRegistry.of([]).find("umbel.StopEvent") is StopEvent
    assert set(EventRegistry.of([Order]).classes) == {*BUILT_IN_EVENTS, event_name(Order)}


def test_two_classes_of_one_name_are_refused() -> None:
    def make() -> type[Event]:
        class Twin(Event):
            pass

        return Twin

    with pytest.raises(WorkflowValidationError, match=r"make\.<locals>\.Twin"):
        EventRegistry.of([make(), make()])
    twin = make()
    EventRegistry.of([twin, twin])


def test_a_payload_that_no_longer_fits_names_event_and_fields() -> None:
    stored = Envelope(event_name(Order), (), b'{"number":"many","seen":5}')

    with pytest.raises(EventMismatch) as caught:
        decode_event(stored, REGISTRY)

    text = str(caught.value)
    assert event_name(Order) in text
    assert "number: Input should be a valid integer" in text
    assert "seen: " in text
    assert "default" in text
    assert "many" not in text


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"5", b'{"number":1}trailing', b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_json_object_is_an_error_that_names_the_event(payload: bytes) -> None:
    with pytest.raises(EventMismatch, match=r"\.Order"):
        decode_event(Envelope(event_name(Order), (), payload), REGISTRY)


def test_a_tagged_value_that_no_longer_fits_is_an_error_that_names_the_event() -> None:
    tagged = {"__is_pydantic": True, "value": {"nom": "x"}, "qualified_name": f"{__name__}.Customer"}
    stored = Envelope("umbel.Event", (), json.dumps({"_data": {"customer": tagged}}).encode())

    with pytest.raises(EventMismatch, match=r"umbel\.Event.*name: Field required"):
        decode_event(stored, REGISTRY)

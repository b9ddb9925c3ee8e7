"""Events from a user's point of view: dynamic data, results, dumps, and the exceptions they carry."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pytest
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, computed_field, model_validator

from umbel.tasks.events.event import (
    CollectionReleaseEvent,
    Event,
    HumanResponseEvent,
    IdleReleasedEvent,
    InputRequiredEvent,
    InternalDispatchEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
)
from umbel.tasks.events.run_events import StepState, StepStateChanged, UnhandledEvent, WorkflowIdleEvent


class Ordered(Event):
    number: int
    tags: list[str] = Field(default_factory=list)
    _secret: int = PrivateAttr(default=3)


class Basket(Event):
    items: list[str]
    keys: int = 0


def test_undeclared_arguments_are_attributes_and_dict_entries() -> None:
    event = Event(topic="ships", limit=3)

    assert (event.topic, event["limit"]) == ("ships", 3)
    assert "topic" in event
    assert "page" not in event
    assert len(event) == 2
    assert list(event) == ["topic", "limit"]
    assert list(event.keys()) == ["topic", "limit"]
    assert list(event.values()) == ["ships", 3]
    assert dict(event.items()) == dict(event) == event.to_dict() == {"topic": "ships", "limit": 3}
    assert event.get("topic") == "ships"
    assert event.get("page") is None
    assert event.get("page", 7) == 7


def test_the_dict_face_does_not_show_declared_fields() -> None:
    event = Ordered(number=1, note="x")

    assert event.number == 1
    assert "number" not in event
    assert len(event) == 1
    assert event.get("number") is None
    with pytest.raises(KeyError, match="number"):
        event["number"]


def test_a_missing_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="page"):
        _ = Event(topic="ships").page


def test_an_event_without_data_is_true() -> None:
    assert bool(Event())
    assert bool(StopEvent())


def test_setting_an_unknown_attribute_stores_dynamic_data() -> None:
    event = Ordered(number=1)

    event.note = "x"
    event["page"] = 2
    event._mark = 3
    event.number = 5

    assert event.to_dict() == {"note": "x", "page": 2, "_mark": 3}
    assert event.number == 5


def test_an_attribute_called_like_a_method_is_still_dynamic_data() -> None:
    event = Event()

    event.schema = {"a": 1}  # type: ignore[method-assign, assignment]
    event.items = [1]

    assert event.to_dict() == {"schema": {"a": 1}, "items": [1]}
    assert list(event.keys()) == ["schema", "items"]


def test_properties_of_a_subclass_are_set_as_written() -> None:
    class Priced(Event):
        cents: int = 0

        @property
        def euros(self) -> float:
            return self.cents / 100

        @euros.setter
        def euros(self, value: float) -> None:
            self.cents = int(value * 100)

        @cached_property
        def label(self) -> str:
            return f"{self.cents} ct"

    event = Priced()
    event.euros = 1.5
    event.label = "x"

    assert event.cents == 150
    assert event.label == "x"
    assert event.to_dict() == {}
    assert event.model_dump() == {"cents": 150}


def test_a_declared_field_cannot_be_set_through_the_dict_face() -> None:
    event = Ordered(number=1)

    with pytest.raises(KeyError, match="declared field of Ordered"):
        event["number"] = 2

    assert event.number == 1


def test_to_dict_is_a_copy() -> None:
    event = Event(topic="ships")

    event.to_dict()["topic"] = "cars"

    assert event.topic == "ships"


def test_private_attributes_may_be_given_by_name() -> None:
    event = Ordered(number=1, _secret=9)

    assert event._secret == 9
    assert event.model_dump() == {"number": 1, "tags": []}
    assert Ordered(number=1)._secret == 3


def test_a_field_may_be_called_like_a_dict_method() -> None:
    basket = Basket(items=["pear"], colour="red")

    assert basket.items == ["pear"]
    assert basket.keys == 0
    assert basket.to_dict() == {"colour": "red"}
    with pytest.raises(ValidationError, match="items"):
        Basket()  # type: ignore[call-arg]


def test_a_dynamic_value_may_be_called_like_a_method() -> None:
    event = Event(items=1, model_dump=2)

    assert event["items"] == 1
    assert event["model_dump"] == 2
    assert list(event.keys()) == ["items", "model_dump"]


def test_dumps_have_data_only_when_there_are_any() -> None:
    assert Event().model_dump() == {}
    assert Event(a=1).model_dump() == {"_data": {"a": 1}}
    assert Ordered(number=1, a=2).model_dump() == {"number": 1, "tags": [], "_data": {"a": 2}}
    assert Event(a=1).model_dump_json() == '{"_data":{"a":1}}'


@pytest.mark.parametrize("given", [{"a": 1}, {"_data": {"a": 1}}])
def test_validation_takes_dynamic_data_flat_and_folded(given: dict[str, Any]) -> None:
    assert Event.model_validate(given).to_dict() == {"a": 1}
    assert Event.model_validate(given) == Event(a=1) == Event(**given)


def test_dynamic_data_may_contain_an_entry_called_data() -> None:
    event = Event()
    event["_data"] = 5

    assert Event.model_validate(event.model_dump()).to_dict() == {"_data": 5}


def test_folded_data_that_are_no_dict_are_refused() -> None:
    with pytest.raises(ValidationError, match="_data must be a dict"):
        Event(_data=5)


def test_folded_data_cannot_hide_a_declared_field() -> None:
    with pytest.raises(ValidationError, match=r"declared as fields of Ordered.*number"):
        Ordered(number=1, _data={"number": 2})


def test_a_dump_with_computed_fields_validates_without_leaving_dynamic_data() -> None:
    class Sum(Event):
        a: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return 2 * self.a

    assert Sum.model_validate(Sum(a=2).model_dump()) == Sum(a=2)


def test_validators_see_dynamic_data() -> None:
    class Renamed(Event):
        quantity: int

        @model_validator(mode="before")
        @classmethod
        def _old_name(cls, given: Any) -> Any:
            return {"quantity": given.pop("qty"), **given} if "qty" in given else given

        @model_validator(mode="after")
        def _check(self) -> Renamed:
            assert self.get("unit", "kg") == "kg"
            return self

    assert Renamed(qty=2).quantity == 2  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Renamed(quantity=1, unit="lb")


def test_an_alias_is_not_dynamic_data() -> None:
    class Aliased(Event):
        order_id: int = Field(alias="orderId")

    assert Aliased(orderId=4).order_id == 4
    assert Aliased(orderId=4).to_dict() == {}


def test_an_event_may_forbid_dynamic_data() -> None:
    class Strict(Event):
        model_config = ConfigDict(extra="forbid")
        number: int

    with pytest.raises(ValidationError, match="Extra inputs"):
        Strict(number=1, nmber=2)  # type: ignore[call-arg]
    with pytest.raises(KeyError, match="forbids dynamic data"):
        Strict(number=1)["x"] = 1
    assert Strict(number=1).to_dict() == {}
    assert len(Strict(number=1)) == 0


def test_a_frozen_event_refuses_new_attributes() -> None:
    class Frozen(Event):
        model_config = ConfigDict(frozen=True)
        number: int

    with pytest.raises(ValidationError, match="frozen"):
        Frozen(number=1).note = "x"


def test_a_constructor_of_the_users_own_works_with_validation() -> None:
    class Positional(Event):
        number: int

        def __init__(self, number: int = 0, **rest: Any) -> None:
            super().__init__(number=number, **rest)

    assert Positional(4, a=1).model_dump() == {"number": 4, "_data": {"a": 1}}
    assert Positional.model_validate({"number": 4, "_data": {"a": 1}}) == Positional(4, a=1)


def test_copies_do_not_share_dynamic_data() -> None:
    event = Event(a=1)

    for twin in (copy.copy(event), event.model_copy(), event.model_copy(update={"a": 5}), copy.deepcopy(event)):
        twin["a"] = 2

    assert event.to_dict() == {"a": 1}
    assert pickle.loads(pickle.dumps(event)) == event


def test_events_differ_when_their_dynamic_data_differ() -> None:
    assert Event(a=1) == Event(a=1)
    assert Event(a=1) != Event(a=2)


def test_repr_shows_fields_and_dynamic_data() -> None:
    assert repr(Ordered(number=1, note="x")) == "Ordered(number=1, tags=[], note='x')"
    assert str(Event(a=1)) == "a=1"


def test_the_schema_shows_declared_fields_only() -> None:
    schema = Ordered.model_json_schema()

    assert set(schema["properties"]) == {"number", "tags"}
    assert "additionalProperties" not in schema
    assert schema["required"] == ["number"]
    assert WorkflowFailedEvent.model_json_schema()["properties"]["exception"] == {"title": "Exception"}
    assert StepFailedEvent.model_json_schema()["properties"]["input_event"] == {"title": "Input Event"}


def test_the_built_in_events_stand_where_they_should() -> None:
    for ending in (WorkflowTimedOutEvent, WorkflowCancelledEvent, WorkflowFailedEvent, IdleReleasedEvent):
        assert issubclass(ending, StopEvent)
    for internal in (StepStateChanged, WorkflowIdleEvent, UnhandledEvent):
        assert issubclass(internal, InternalDispatchEvent)
    for other in (StartEvent, StopEvent, InputRequiredEvent, HumanResponseEvent, StepFailedEvent):
        assert other.__mro__[1] is Event


def test_the_built_in_events_have_the_documented_fields() -> None:
    changed = StepStateChanged(name="work", step_state=StepState.RUNNING, worker_id="0", input_event_name="StartEvent")
    unhandled = UnhandledEvent(event_type="Stray", qualified_name="shop.Stray", idle=False)

    assert changed.model_dump(mode="json") == {
        "name": "work",
        "step_state": "running",
        "worker_id": "0",
        "input_event_name": "StartEvent",
        "output_event_name": None,
    }
    assert [state.value for state in StepState] == ["preparing", "running", "not_running"]
    assert unhandled.step_name is None
    assert WorkflowTimedOutEvent(timeout=1.5, active_steps=["a"]).model_dump() == {
        "timeout": 1.5,
        "active_steps": ["a"],
    }
    assert WorkflowCancelledEvent().model_dump() == IdleReleasedEvent().model_dump() == {}


def test_a_failure_is_dumped_as_type_and_message() -> None:
    failed = WorkflowFailedEvent(step_name="work", exception=ValueError("boom"), attempts=3, elapsed_seconds=0.5)

    dumped = failed.model_dump()

    assert dumped == {
        "step_name": "work",
        "exception": {"exception_type": "builtins.ValueError", "exception_message": "boom"},
        "attempts": 3,
        "elapsed_seconds": 0.5,
    }
    again = WorkflowFailedEvent.model_validate_json(failed.model_dump_json())
    assert type(again.exception) is ValueError
    assert str(again.exception) == "boom"
    assert WorkflowFailedEvent(step_name="work", exception=ValueError("x")).attempts is None


def test_a_failed_step_carries_its_input_event_with_class_and_data() -> None:
    failed = StepFailedEvent(
        step_name="work",
        input_event=Ordered(number=1, note={"deep": [1]}),
        exception=KeyError("x"),
        attempts=2,
        elapsed_seconds=0.1,
        failed_at=datetime(2026, 1, 2, tzinfo=UTC),
    )

    again = StepFailedEvent.model_validate_json(failed.model_dump_json())

    assert again.input_event == failed.input_event
    assert type(again.input_event) is Ordered
    assert again.failed_at == failed.failed_at
    assert failed.model_dump()["input_event"] == {
        "__is_pydantic": True,
        "value": {"number": 1, "tags": [], "_data": {"note": {"deep": [1]}}},
        "qualified_name": f"{__name__}.Ordered",
    }


def test_a_failed_gathering_step_carries_the_gathered_events() -> None:
    released = CollectionReleaseEvent(events=[Ordered(number=1), StopEvent("x")], stream_id="s")

    again = CollectionReleaseEvent.model_validate_json(released.model_dump_json())

    assert again == released
    assert [type(event) for event in again.events] == [Ordered, StopEvent]


def test_an_input_event_is_also_read_from_an_envelope() -> None:
    stored = {"type": "umbel.StopEvent", "parents": [], "value": {"result": 3}}

    assert CollectionReleaseEvent.model_validate({"events": [stored]}).events == [StopEvent(3)]


def test_an_input_event_of_an_unknown_class_names_it() -> None:
    with pytest.raises(ValidationError, match=r"'gone\.Event' is not loaded"):
        CollectionReleaseEvent.model_validate({"events": [{"qualified_name": "gone.Event", "value": {}}]})

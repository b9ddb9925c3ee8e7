"""Events as users meet them: dynamic data, results, dumps, and the exceptions they carry."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, computed_field, model_validator
from umbel.tasks.events import (
    CollectionReleaseEvent,
    Event,
    HumanResponseEvent,
    IdleReleasedEvent,
    InputRequiredEvent,
    InternalDispatchEvent,
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    UnreconstructedException,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)
from umbel.tasks.remote_exceptions import decode_exception, encode_exception


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


class Declined(Exception):
    """One argument, kept as it is."""


class WithCode(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class PlainPair(Exception):
    def __init__(self, code: int, text: str) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"pair {self.code}"


class Prefixed(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(f"declined: {text}")


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _validation_error() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Ordered(number="x")  # type: ignore[arg-type]
    return caught.value


def _round_trip(exc: BaseException) -> Exception:
    encoded = encode_exception(exc)
    failed = WorkflowFailedEvent.model_validate({"step_name": "s", "exception": encoded})
    return WorkflowFailedEvent.model_validate_json(failed.model_dump_json()).exception


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("boom"),
        ValueError(),
        ValueError(1, "two"),
        ValueError(""),
        KeyError("x"),
        KeyError("it's"),
        KeyError(7),
        Declined("no"),
        PlainPair(4, "x"),
        FileNotFoundError(2, "No such file or directory", "/tmp/x"),
        OSError(5, "Input/output error"),
        TimeoutError(),
        StopIteration("x"),
    ],
)
def test_an_exception_comes_back_as_itself(exc: Exception) -> None:
    again = _round_trip(exc)

    assert type(again) is type(exc)
    assert str(again) == str(exc)
    assert again.args == exc.args


def test_an_operating_system_error_keeps_number_and_file() -> None:
    again = _round_trip(FileNotFoundError(2, "No such file or directory", "/tmp/x"))

    assert isinstance(again, FileNotFoundError)
    assert (again.errno, again.filename) == (2, "/tmp/x")


@pytest.mark.parametrize(
    "exc",
    [
        WithCode(4, "x"),
        Prefixed("x"),
        KeywordOnly(code=4),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError("a")]),
        KeyboardInterrupt("x"),
        _validation_error(),
    ],
)
def test_an_exception_that_would_lose_its_message_is_replaced_by_one_that_keeps_it(exc: BaseException) -> None:
    again = _round_trip(exc)

    assert isinstance(again, UnreconstructedException)
    assert str(again) == str(exc)
    assert again.original_type == f"{type(exc).__module__}.{type(exc).__qualname__}"


def test_an_exception_whose_class_is_not_loaded_is_replaced_and_may_be_rebuilt_later() -> None:
    again = decode_exception({"exception_type": "gone.module.Lost", "exception_message": "m"})

    assert isinstance(again, UnreconstructedException)
    assert again.original_type == "gone.module.Lost"
    assert repr(again) == "UnreconstructedException('m', original_type='gone.module.Lost')"
    assert encode_exception(again) == {"exception_type": "gone.module.Lost", "exception_message": "m"}
    assert copy.copy(again).original_type == pickle.loads(pickle.dumps(again)).original_type == "gone.module.Lost"


@pytest.mark.parametrize("name", ["os.system", "builtins.int", "builtins.SystemExit", "", "x", "builtins", "a..b"])
def test_a_name_that_is_no_exception_class_is_never_called(name: str) -> None:
    again = decode_exception({"exception_type": name, "exception_message": "true"})

    assert isinstance(again, UnreconstructedException)


def test_an_exception_defined_in_a_function_is_rebuilt_in_the_same_process() -> None:
    class Local(Exception):
        pass

    assert type(_round_trip(Local("x"))) is Local


def test_a_broken_exception_is_still_recorded() -> None:
    again = _round_trip(Unreadable("x"))

    assert isinstance(again, UnreconstructedException)
    assert "Unreadable whose text cannot be read" in str(again)
    assert isinstance(decode_exception({}), UnreconstructedException)


def test_messages_that_json_cannot_carry_are_made_fit() -> None:
    assert str(_round_trip(ValueError("half \ud800 pair"))) == "half \\ud800 pair"
    assert len(str(_round_trip(ValueError("x" * 1_000_000)))) < 70_000
    assert encode_exception(ValueError(float("nan"))) == {
        "exception_type": "builtins.ValueError",
        "exception_message": "nan",
    }


def test_notes_and_causes_travel_with_an_exception() -> None:
    exc = ValueError("boom")
    exc.add_note("while charging")
    exc.__cause__ = WithCode(4, "card")
    exc.__cause__.__cause__ = ConnectionError("reset")

    again = _round_trip(exc)

    assert again.__notes__ == ["while charging"]
    assert isinstance(again.__cause__, UnreconstructedException)
    assert str(again.__cause__) == "4: card"
    assert type(again.__cause__.__cause__) is ConnectionError


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first

    assert str(_round_trip(first)) == "a"

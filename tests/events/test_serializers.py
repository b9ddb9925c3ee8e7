"""Values as text in snapshots, in both directions."""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
import threading
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, computed_field, field_validator

from umbel.orchestration.model.errors import ContextSerdeError
from umbel.tasks.events.event import Event, StartEvent, StepFailedEvent, StopEvent
from umbel.tasks.events.serializers import BaseSerializer, JsonPickleSerializer, JsonSerializer, PickleSerializer
from umbel.tasks.values.dict_like_model import DictState


class Customer(BaseModel):
    name: str
    born: date | None = None


class Order(Event):
    number: int
    customer: Customer | None = None


class Ended(StopEvent):
    total: Decimal


class Secretive(Event):
    shown: int
    _hidden: str = PrivateAttr(default="as at first")


class Square(BaseModel):
    model_config = ConfigDict(extra="forbid")

    side: int = Field(alias="a", default=1)

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def area(self) -> int:
        return self.side**2


class Fussy(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _never(cls, value: int) -> int:
        if value > 5:
            raise RuntimeError("more than five")
        return value


class Point:
    """A component: it defines its own serialized form."""

    def __init__(self, x: int) -> None:
        self.x = x

    @classmethod
    def class_name(cls) -> str:
        return "Point"

    def to_dict(self) -> dict[str, Any]:
        return {"x": self.x}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Point:
        return cls(data["x"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x

    __hash__ = None  # type: ignore[assignment]


class Plain:
    def __init__(self, x: int) -> None:
        self.x = x


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


NAME = f"{__name__}.Customer"

# -- the wire format ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (None, None),
        ([1, 2.5, True, "ä"], [1, 2.5, True, "ä"]),
        ({"a": {"b": [None]}}, {"a": {"b": [None]}}),
        (
            Customer(name="Ada", born=date(1815, 12, 10)),
            {"__is_pydantic": True, "value": {"name": "Ada", "born": "1815-12-10"}, "qualified_name": NAME},
        ),
        (
            {"who": [Customer(name="Ada")]},
            {"who": [{"__is_pydantic": True, "value": {"name": "Ada", "born": None}, "qualified_name": NAME}]},
        ),
        (
            Order(number=1, colour="red"),
            {
                "__is_pydantic": True,
                "value": {"number": 1, "customer": None, "_data": {"colour": "red"}},
                "qualified_name": f"{__name__}.Order",
            },
        ),
        (
            StopEvent(result={"a": 1}),
            {"__is_pydantic": True, "value": {"result": {"a": 1}}, "qualified_name": "umbel.StopEvent"},
        ),
        (Point(3), {"__is_component": True, "value": {"x": 3}, "qualified_name": f"{__name__}.Point"}),
    ],
)
@pytest.mark.parametrize("serializer", [JsonSerializer(), PickleSerializer()])
def test_values_are_written_in_the_known_form(serializer: BaseSerializer, value: Any, wire: Any) -> None:
    assert json.loads(serializer.serialize(value)) == wire


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, {"b": None}], "": 0},
        Customer(name="Ada", born=date(1815, 12, 10)),
        [{"x": Customer(name="Ada")}],
        Square(a=3),
        Event(),
        Event(a=1, deep={"who": [Customer(name="Ada")], "when": date(2026, 1, 2)}),
        Order(number=1, customer=Customer(name="Ada"), items=[Customer(name="Bo")]),
        Event(class_name="a field like any other"),
        StartEvent(topic="ships"),
        StopEvent(),
        StopEvent(result=0),
        StopEvent(result={"who": Customer(name="Ada"), "stop": StopEvent(result=[1])}),
        Ended(total=Decimal("1.50"), note="x"),
        DictState(a=1, who=Customer(name="Ada")),
        {"who": Event(a=Event(b=1))},
        b"\x00\xff",
        [date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), time(1, 2), timedelta(seconds=1.5)],
        [Decimal("1.10"), UUID(int=5)],
        {"__is_pydantic": True, "value": {"name": "x"}, "qualified_name": "os.system"},
        {"__is_pydantic": False, "value": {}},
        {"__is_component": True, "value": {}, "qualified_name": "os.system"},
        {"a": {"__is_component": 1}},
    ],
    ids=repr,
)
@pytest.mark.parametrize("serializer", [JsonSerializer(), PickleSerializer()])
def test_what_is_read_equals_what_was_written(serializer: BaseSerializer, value: Any) -> None:
    again = serializer.deserialize(serializer.serialize(value))

    assert again == value
    assert type(again) is type(value)


def test_a_failed_steps_event_comes_back_with_its_exception() -> None:
    failed = StepFailedEvent(
        step_name="charge",
        input_event=Order(number=1, note=Customer(name="Ada")),
        exception=ValueError("no card"),
        attempts=3,
        elapsed_seconds=1.5,
        failed_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    again = JsonSerializer().deserialize(JsonSerializer().serialize(failed))

    assert again.input_event == failed.input_event
    assert (type(again.exception), str(again.exception)) == (ValueError, "no card")


def test_private_attributes_stay_behind() -> None:
    event = Secretive(shown=1)
    event._hidden = "changed"
    text = JsonSerializer().serialize(event)

    assert "changed" not in text
    assert JsonSerializer().deserialize(text)._hidden == "as at first"


def test_a_class_inside_a_function_is_found_as_long_as_it_lives() -> None:
    class Local(Event):
        n: int

    assert JsonSerializer().deserialize(JsonSerializer().serialize(Local(n=1))) == Local(n=1)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, threading.Lock()]}, "'a[1]' holds a _thread.lock"),
        (Event(client=threading.Lock()), "'client' holds a _thread.lock"),
        (StopEvent(result=threading.Lock()), "'result' holds a _thread.lock"),
        ({1: {threading.Lock()}}, "'1[0]' holds a _thread.lock"),
        (float("nan"), "nan"),
        (Plain(1), "Plain"),
    ],
)
def test_what_json_cannot_carry_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON") as caught:
        JsonSerializer().serialize(value)
    assert place in str(caught.value)


def test_what_contains_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        JsonSerializer().serialize(circle)


@pytest.mark.parametrize("text", ["", "no json", "{", "gAS", "ä", "[" * 100_000])
@pytest.mark.parametrize("serializer", [JsonSerializer(), PickleSerializer()])
def test_text_of_another_kind_is_refused(serializer: BaseSerializer, text: str) -> None:
    with pytest.raises(ContextSerdeError) as caught:
        serializer.deserialize(text)
    assert isinstance(caught.value, ValueError)
    assert repr(text[:3])[:-1] in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("serializer", [JsonSerializer(), PickleSerializer()])
def test_a_class_is_not_imported_to_read_a_value(serializer: BaseSerializer) -> None:
    unloaded = "antigravity.Model"
    tagged = {"__is_pydantic": True, "value": {}, "qualified_name": unloaded}

    for text in (json.dumps(tagged), json.dumps({"a": [tagged]}), json.dumps(tagged | {"__is_component": True})):
        with pytest.raises(ContextSerdeError, match=r"antigravity\.Model.*import antigravity first.*allowed_types"):
            serializer.deserialize(text)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("tag", ["__is_pydantic", "__is_component"])
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.Popen", f"{__name__}.Plain"])
def test_only_classes_of_values_are_made_from_data(tag: str, name: str) -> None:
    text = json.dumps({tag: True, "value": {"command": "true"}, "qualified_name": name})

    with pytest.raises(ContextSerdeError, match="no (pydantic model|class of values) of this name is loaded"):
        JsonSerializer().deserialize(text)


def test_a_class_named_inside_an_event_is_not_imported_either() -> None:
    for value in ({"_data": {"x": None}}, {"result": None}):
        inner = {"__is_pydantic": True, "value": {}, "qualified_name": "antigravity.Model"}
        filled = json.loads(json.dumps(value).replace("null", json.dumps(inner)))
        text = json.dumps({"__is_pydantic": True, "value": filled, "qualified_name": "umbel.StopEvent"})

        with pytest.raises(ContextSerdeError, match=r"antigravity\.Model"):
            JsonSerializer().deserialize(text)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("cls", "value", "problem"),
    [(Customer, {"name": 5}, "name: "), (Customer, "text", "Customer"), (Fussy, {"n": 6}, "RuntimeError: more than")],
)
def test_a_value_that_no_longer_fits_its_class_is_refused(cls: type, value: Any, problem: str) -> None:
    name = f"{__name__}.{cls.__name__}"
    text = json.dumps({"__is_pydantic": True, "value": value, "qualified_name": name})

    with pytest.raises(ContextSerdeError, match="does not fit its class") as caught:
        JsonSerializer().deserialize(text)
    assert problem in str(caught.value)


# -- allowed types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [[Customer], [NAME], [Customer, Order]])
def test_allowed_types_are_read_by_class_and_by_name(allowed: list[Any]) -> None:
    serializer = JsonSerializer(allowed_types=allowed)

    assert serializer.deserialize(JsonSerializer().serialize([Customer(name="Ada")])) == [Customer(name="Ada")]


@pytest.mark.parametrize("allowed", [[], [Order], ["elsewhere.Customer"]])
def test_a_type_that_is_not_allowed_is_refused(allowed: list[Any]) -> None:
    serializer = JsonSerializer(allowed_types=allowed)

    for value in (Customer(name="Ada"), Event(who=Customer(name="Ada"))):
        with pytest.raises(ContextSerdeError, match=r"Customer'.*does not allow.*add Customer to allowed_types"):
            serializer.deserialize(JsonSerializer().serialize(value))


def test_built_in_events_and_plain_values_are_always_allowed() -> None:
    serializer = JsonSerializer(allowed_types=[])

    for value in (StopEvent(result=[date(2026, 1, 2)]), DictState(a=1), {"a": 1}):
        assert serializer.deserialize(serializer.serialize(value)) == value


def test_a_component_that_is_no_model_is_read_only_if_it_is_allowed() -> None:
    text = JsonSerializer().serialize(Point(3))

    with pytest.raises(ContextSerdeError, match="no pydantic model of this name"):
        JsonSerializer().deserialize(text)
    for entry in (Point, f"{__name__}.Point"):
        assert JsonSerializer(allowed_types=[entry]).deserialize(text) == Point(3)
    with pytest.raises(ContextSerdeError, match="KeyError"):
        JsonSerializer(allowed_types=[Point]).deserialize(text.replace('"x"', '"y"'))


def test_allowed_types_are_classes_or_names() -> None:
    with pytest.raises(TypeError, match="not 5"):
        JsonSerializer(allowed_types=[5])  # type: ignore[list-item]


# -- snapshots of LlamaIndex Workflows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["workflows.events", "llama_index.core.workflow.events", "umbel.events"])
def test_the_names_of_built_in_events_in_other_snapshots_are_understood(module: str) -> None:
    value = {"_data": {"topic": "ships"}}
    text = json.dumps({"__is_pydantic": True, "value": value, "qualified_name": f"{module}.StartEvent"})

    assert JsonSerializer().deserialize(text) == StartEvent(topic="ships")


def test_a_class_of_the_users_own_under_such_a_name_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("workflows.events")

    class Theirs(StartEvent):
        pass

    module.StartEvent = Theirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "workflows.events", module)
    text = json.dumps({"__is_pydantic": True, "value": {}, "qualified_name": "workflows.events.StartEvent"})

    assert type(JsonSerializer().deserialize(text)) is Theirs


# -- pickles -----------------------------------------------------------------------------------------------------------


def test_a_pickle_serializer_pickles_only_what_json_cannot_carry() -> None:
    serializer = PickleSerializer()
    assert JsonPickleSerializer is PickleSerializer
    assert serializer.serialize({"a": 1}) == '{"a": 1}'

    for value in ([slice(1, 2)], {1: slice(3)}, NotImplemented):
        text = serializer.serialize(value)
        assert pickle.loads(base64.b64decode(text, validate=True)) == value
        assert serializer.deserialize(text) == value
    assert serializer.deserialize(serializer.serialize(Plain(7))).x == 7


@pytest.mark.parametrize("value", [threading.Lock(), Unpicklable()])
def test_what_cannot_be_pickled_either_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot be written as JSON.*cannot be pickled either"):
        PickleSerializer().serialize(value)


@pytest.mark.parametrize("text", ["1234", "true", "null", "12345678", '"gASV"', '{"a": "gASV"}'])
def test_json_that_looks_like_base64_is_json(text: str) -> None:
    assert PickleSerializer().deserialize(text) == json.loads(text)


def test_a_pickle_that_was_cut_or_needs_a_missing_class_is_refused() -> None:
    whole = pickle.dumps(Plain(1))
    for damaged in (whole[:-5], whole.replace(b"Plain", b"Gones"), b"\x80"):
        with pytest.raises(ContextSerdeError, match="pickle that cannot be read here"):
            PickleSerializer().deserialize(base64.b64encode(damaged).decode())


def test_a_json_serializer_reads_no_pickle() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.abort, ()

    with pytest.raises(ContextSerdeError, match="not JSON text"):
        JsonSerializer().deserialize(base64.b64encode(pickle.dumps(Bomb())).decode())

"""Row 75: values as text, and back."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from umbel.context import JsonSerializer, PickleSerializer
from umbel.context.serializers import BaseSerializer, JsonPickleSerializer
from umbel.errors import ContextSerdeError
from umbel.events import Event, StopEvent


class Item(Event):
    n: int


class Customer(BaseModel):
    name: str


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


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, None]}, {"a": [1, None]}),
        (
            [Customer(name="Ada")],
            [{"__is_pydantic": True, "value": {"name": "Ada"}, "qualified_name": f"{__name__}.Customer"}],
        ),
        (Point(3), {"__is_component": True, "value": {"x": 3}, "qualified_name": f"{__name__}.Point"}),
    ],
)
@pytest.mark.parametrize("serializer", [JsonSerializer(), PickleSerializer()])
@pytest.mark.row(75)
def test_the_json_of_models_and_components(serializer: BaseSerializer, value: Any, written: Any) -> None:
    assert json.loads(serializer.serialize(value)) == written


@pytest.mark.row(75)
def test_what_is_read_is_what_was_written() -> None:
    for serializer in (JsonSerializer(), JsonPickleSerializer()):
        for value in ({"a": [1, {"b": Customer(name="Ada")}]}, Item(n=1), StopEvent(result=Customer(name="Ada"))):
            assert serializer.deserialize(serializer.serialize(value)) == value
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        JsonSerializer().serialize({"lock": threading.Lock()})


@pytest.mark.parametrize("allowed", [[Customer], [f"{__name__}.Customer"]])
@pytest.mark.row(75)
def test_a_type_that_is_not_in_the_allow_list_is_refused(allowed: list[Any]) -> None:
    serializer = JsonSerializer(allowed_types=allowed)

    assert serializer.deserialize(serializer.serialize(Customer(name="Ada"))) == Customer(name="Ada")
    with pytest.raises(ContextSerdeError, match=f"{__name__}.Item.*allowed_types"):
        serializer.deserialize(JsonSerializer().serialize(Item(n=1)))


@pytest.mark.row(75)
def test_a_type_that_is_not_loaded_is_not_imported_to_read_it() -> None:
    """LlamaIndex Workflows imports the class by its name unless an allow list says otherwise."""
    text = json.dumps({"__is_pydantic": True, "value": {}, "qualified_name": "antigravity.Model"})

    with pytest.raises(ContextSerdeError, match="antigravity.Model"):
        JsonSerializer().deserialize(text)
    assert "antigravity" not in sys.modules


@pytest.mark.row(75)
def test_pickle_is_for_what_json_cannot_carry() -> None:
    serializer = PickleSerializer()

    assert serializer.serialize({"a": 1}) == '{"a": 1}'
    text = serializer.serialize(slice(1, 2))
    assert pickle.loads(base64.b64decode(text)) == slice(1, 2)
    assert serializer.deserialize(text) == slice(1, 2)

"""Converts a state to its part of a snapshot and back; see `StatePart`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ...orchestration.model.tagged_json import TAG
from ..events.serializers import COMPONENT_TAG, BaseSerializer, JsonSerializer, UnreadableValue
from ..snapshots.shape import StatePart
from ..values.class_names import module_path
from ..values.dict_like_model import DictState
from ..values.json_values import field_problems
from .fields import CLASS_FIELD, StateFields

#: Keys that ready-made workflows set, often to values that cannot be written.
_MAY_STAY_BEHIND = ("memory",)

_IN_MEMORY = "in_memory"
#: Marks a state whose values are JSON, not JSON texts, as in checkpoints of LlamaIndex Workflows: `dict` or `model`.
_TREE = "_tree"
_DICT_STATE_MODULE = "umbel.context.state_store"


class UnserializableKeyWarning(UserWarning):
    """A key of the state is missing from the snapshot. Set it again after loading the snapshot."""


def dump_state(state: BaseModel, serializer: BaseSerializer | None = None) -> dict[str, Any]:
    """The state in the form of a snapshot.

    A key named `memory` whose value cannot be written is left out, with an `UnserializableKeyWarning`.

    Args:
        state: Any state.
        serializer: Writes the values; None is JSON.

    Raises:
        ValueError: A value cannot be written; the message names its key.
    """
    serializer = serializer or JsonSerializer()
    if not isinstance(state, DictState) or type(state).model_fields:
        return _part(type(state), serializer.serialize(state))
    values: dict[str, str] = {}
    for key, value in state.to_dict().items():
        try:
            values[key] = serializer.serialize(value)
        except Exception as error:  # a user-supplied serializer may raise anything
            if key not in _MAY_STAY_BEHIND:
                raise ValueError(f"The state cannot be written: key {key!r}: {error}") from error
            warnings.warn(
                f"The snapshot has no {key!r} of the state, which cannot be written ({error}). "
                "Set it again after loading the snapshot.",
                UnserializableKeyWarning,
                stacklevel=3,
            )
    return _part(type(state), {"_data": values})


def dump_stored_state(
    fields: StateFields[Any], raw: Mapping[str, bytes], serializer: BaseSerializer | None = None
) -> dict[str, Any]:
    """The same for a stored state. `{}` if nothing is stored and a field of the class has no default.

    Args:
        fields: The class that the workflow declares.
        raw: Top-level key -> JSON.
        serializer: Writes the values; None is JSON.

    Raises:
        ValueError: As in `dump_state`.
        StateMismatch: The stored state does not match the class.
    """
    serializer = serializer or JsonSerializer()
    if type(serializer) is JsonSerializer and fields.stored_class(raw) is DictState:
        # The stored JSON unchanged, so that a model whose class is not loaded here keeps its class.
        return _part(DictState, {"_data": {key: data.decode() for key, data in raw.items() if key != CLASS_FIELD}})
    if not raw:
        try:
            return dump_state(fields.cls(), serializer)
        except ValidationError:
            return {}
    return dump_state(fields.load(raw), serializer)


def load_state(part: Mapping[str, Any] | None, serializer: BaseSerializer | None = None) -> BaseModel:
    """The inverse of `dump_state`. Empty data is an empty `DictState`.

    The data itself names its class; `state_type` and `state_module` are ignored.

    Raises:
        ContextSerdeError: The data is in another store or damaged, or the serializer cannot read it.
    """
    if not part:
        return DictState()
    try:
        whole = StatePart.model_validate(part)
    except ValidationError as error:
        raise UnreadableValue(f"The state in a snapshot is damaged: {field_problems(error)}.") from error
    if whole.store_type != _IN_MEMORY:
        raise UnreadableValue(
            f"The state in a snapshot is kept in a store of type {whole.store_type!r}, and is not in the snapshot. "
            f"Only {_IN_MEMORY!r} can be loaded: take the snapshot from a context that keeps its state in memory."
        )
    return _load_data(whole.state_data, serializer or JsonSerializer())


def _part(cls: type[BaseModel], data: Any) -> dict[str, Any]:
    module = _DICT_STATE_MODULE if cls is DictState else module_path(cls.__module__)
    return StatePart(store_type=_IN_MEMORY, state_type=cls.__name__, state_module=module, state_data=data).model_dump()


def _load_data(data: Any, serializer: BaseSerializer) -> BaseModel:
    if data is None:
        return DictState()
    if isinstance(data, dict) and _TREE in data:
        data = _without_tree(data)
    if isinstance(data, str):
        inner = _json_object(data)
        if not _is_dict_state(inner):
            return _load_model(data, serializer)
        data = inner
    if _is_dict_state(data):
        state = DictState()
        for key, text in data["_data"].items():
            try:
                state[key] = serializer.deserialize(text)
            except Exception as error:  # a user-supplied serializer may raise anything
                raise UnreadableValue(f"Key {key!r} of the state in a snapshot cannot be read: {error}") from error
        return state
    if isinstance(data, dict) and (TAG in data or COMPONENT_TAG in data):
        return _load_model(json.dumps(data), serializer)
    raise _no_state(data)


def _load_model(text: str, serializer: BaseSerializer) -> BaseModel:
    try:
        state = serializer.deserialize(text)
    except Exception as error:  # a user-supplied serializer may raise anything
        raise UnreadableValue(f"The state in a snapshot cannot be read: {error}") from error
    if not isinstance(state, BaseModel):
        raise _no_state(state)
    return state


def _without_tree(data: Mapping[str, Any]) -> dict[str, Any]:
    """A state whose values are JSON, converted to one whose values are JSON texts."""
    rest = {key: value for key, value in data.items() if key != _TREE}
    values = rest.get("_data")
    if data[_TREE] != "dict" or not isinstance(values, dict):
        return rest
    return {"_data": {key: json.dumps(value) for key, value in values.items()}}


def _is_dict_state(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("_data"), dict) and TAG not in data


def _json_object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _no_state(found: Any) -> UnreadableValue:
    return UnreadableValue(
        f"The state in a snapshot is damaged: expected is a pydantic model, or the keys of a DictState under '_data'; "
        f"found a {type(found).__qualname__}."
    )

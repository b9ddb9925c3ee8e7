"""Serializers, which write events and state values as text for a snapshot.

A pydantic model is written with the name of its class, in the form that LlamaIndex Workflows writes too (see
`orchestration/model/tagged_json`). A class named in the data is never imported. It is found among those that this
process has loaded, and must be a pydantic model: creating one validates data, any other class could do anything.
"""

from __future__ import annotations

import base64
import json
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pydantic import BaseModel

from ...orchestration.model.envelope import EXACT
from ...orchestration.model.errors import ContextSerdeError
from ...orchestration.model.tagged_json import MORE, TAG, from_tagged, tagged, to_tagged
from ..values.class_names import loaded_class, only_classes, qualified_name
from ..values.dict_like_model import DictLikeModel, DictState
from ..values.exact_reading import is_standard_name, read_instance, value_class
from ..values.json_values import field_problems, from_json_value, load_model, to_json_value
from .event import BUILT_IN_EVENTS, Event, event_from_json, event_name, model_to_json, restore_tagged

#: Marks a dict that stands for a component: an object with `class_name`, `to_dict` and `from_dict`.
COMPONENT_TAG = "__is_component"
_TAGS = (TAG, COMPONENT_TAG)

#: Every pickle of protocol 2 or later begins with it. No JSON text is the base64 of such bytes.
_PICKLE_START = b"\x80"

#: Roots of module paths under which snapshots name the built-in classes: ours, and those of LlamaIndex Workflows.
_ROOTS = ("umbel", "umbel.tasks", "workflows", "llama_agents.workflows", "llama_index.core.workflow")
_BUILT_IN: dict[str, type[BaseModel]] = {
    **BUILT_IN_EVENTS,
    **{f"{root}.events.{cls.__name__}": cls for root in _ROOTS for cls in BUILT_IN_EVENTS.values()},
    **{f"{root}.context.state_store.DictState": DictState for root in _ROOTS},
    qualified_name(DictState): DictState,
    "umbel.tasks.dict_state.DictState": DictState,  # as older versions of umbel wrote it
}


class UnreadableValue(ContextSerdeError, ValueError):
    """A text that no serializer wrote, or that names a class which is not available here."""


class BaseSerializer(ABC):
    """Values as text, and back."""

    @abstractmethod
    def serialize(self, value: Any) -> str:
        """The value as text.

        Raises:
            ValueError: It cannot be written, or could not be restored.
        """

    @abstractmethod
    def deserialize(self, value: str) -> Any:
        """The inverse of `serialize`.

        Raises:
            ContextSerdeError: This serializer did not write the text, or it names a class that is not available.
        """


class JsonSerializer(BaseSerializer):
    """JSON in which types that JSON lacks are tagged with their class: models, dataclasses, enums, tuples, dates …

    Private attributes and computed fields are left out. What could not be restored is refused rather than changed.

    *Components* (objects with `class_name`, `to_dict` and `from_dict`) are written as `to_dict` says. To read one that
    is not a pydantic model, its class must be in `allowed_types`, because its `from_dict` can do anything.

    Use `allowed_types` to read data that somebody else may have changed: no other class named in them is instantiated.
    Exceptions inside events are not rebuilt either; they become an `UnreconstructedException`.
    """

    def __init__(self, *, allowed_types: Iterable[type[Any] | str] | None = None) -> None:
        """Args:
        allowed_types: Classes, or their names as `module.Class`, that may be read in addition to the built-in events
            and `DictState`. None allows every pydantic model that is loaded. A class given by name must be loaded too.

        Raises:
            TypeError: An entry is neither a class nor a text.
        """
        self._classes: dict[str, type[Any]] = {}
        self._allowed: set[str] | None = None if allowed_types is None else set()
        for entry in allowed_types or ():
            self._allow(entry)

    def with_types(self, *classes: type[Any]) -> JsonSerializer:
        """A serializer that also allows these classes; this one if it allows all.

        Raises:
            TypeError: An entry is not a class.
        """
        if self._allowed is None:
            return self
        named = self._allowed - self._classes.keys()
        return type(self)(allowed_types=[*dict.fromkeys(self._classes.values()), *named, *classes])

    def resolve_class(self, qualified_name: str) -> type[Any]:
        """The class with this name in stored data; never imports.

        Raises:
            ContextSerdeError: It is not allowed, or not loaded in this process.
        """
        return self._find(qualified_name, object)

    def validation_context(self) -> AbstractContextManager[None]:
        """Within the block, validators of models find only what this serializer allows."""
        return self.restricting()

    def _allow(self, entry: type[Any] | str) -> None:
        assert self._allowed is not None
        if isinstance(entry, str):
            self._allowed.add(entry)
        elif isinstance(entry, type):
            names = {qualified_name(entry), f"{entry.__module__}.{entry.__name__}", _class_name(entry)}
            self._allowed |= names
            self._classes |= dict.fromkeys(names, entry)
        else:
            raise TypeError(
                f"allowed_types takes classes and their names, not {entry!r}. Give the class itself, or 'module.Class'."
            )

    # -- writing ---------------------------------------------------------------------------------------------------

    def serialize(self, value: Any) -> str:
        """The value as JSON text.

        Raises:
            ValueError: Something in it is neither JSON nor a pydantic model nor a component; the text names the place.
        """
        try:
            return json.dumps(self._write(value), allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"A {type(value).__qualname__} cannot be written as JSON: {error}") from error

    def _write(self, value: Any) -> Any:
        return to_tagged(value, self._write_class, _TAGS, math.inf)

    def _write_class(self, value: Any) -> Any:
        if _is_component(value):
            return tagged(qualified_name(type(value)), value.to_dict(), COMPONENT_TAG)
        if isinstance(value, DictLikeModel):
            written = model_to_json(value, self._write_class, _TAGS, math.inf)
            return tagged(_class_name(type(value)), written)
        return to_json_value(value)

    # -- reading ---------------------------------------------------------------------------------------------------

    def deserialize(self, value: str) -> Any:
        """The inverse of `serialize`.

        Raises:
            ContextSerdeError: The text is not JSON; it names a class that is not loaded or not allowed; or a value no
                longer fits its class.
        """
        try:
            with self.restricting():
                return self._read(json.loads(value))
        except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
            raise UnreadableValue(f"{_shown(value)} is not JSON text: {error}.") from error
        except RecursionError as error:
            raise UnreadableValue(f"{_shown(value)} nests lists and objects too deeply to be read.") from error

    def restricting(self) -> AbstractContextManager[None]:
        """Within the block no class is found that `allowed_types` does not list."""
        return nullcontext() if self._allowed is None else only_classes(self._allowed)

    def _read(self, value: Any) -> Any:
        return from_tagged(value, {TAG: self._read_model, COMPONENT_TAG: self._read_component})

    def _read_model(self, name: str, value: Any, more: Any = None) -> Any:
        try:
            if is_standard_name(name):
                found = tagged(name, value)
                return from_json_value(found if more is None else found | {MORE: more})
            cls = self._find(name, None, more)
            if more is not None:
                return read_instance(cls, value, more)
            if not issubclass(cls, BaseModel):
                return read_instance(cls, value, {})
            if issubclass(cls, DictLikeModel) and EXACT in value:
                return event_from_json(cls, value, self._read)
            model = load_model(cls, value)
            if isinstance(model, DictLikeModel):
                restore_tagged(model, self._read)
            return model
        except UnreadableValue:
            raise
        except Exception as error:  # a user's validators may raise anything
            raise _misfit(name, error) from error

    def _read_component(self, name: str, value: Any) -> Any:
        listed = self._allowed is not None and name in self._allowed
        cls: Any = self._find(name, object if listed else BaseModel)
        if not callable(getattr(cls, "from_dict", None)):
            raise UnreadableValue(f"A stored component is of class {name!r}, which has no from_dict to create it with.")
        try:
            return cls.from_dict(value)
        except Exception as error:  # user code
            raise _misfit(name, error) from error

    def _find(self, name: str, root: type[Any] | None, more: Any = None) -> type[Any]:
        """The class of this name: listed, built in, or loaded.

        Raises:
            UnreadableValue: It is not allowed, or there is none.
        """
        if known := self._classes.get(name):
            return known
        allowed = self._allowed is None or name in self._allowed
        found: type[Any] | None = None
        if allowed:
            found = value_class(name, (more or {}).get("g")) if root is None else loaded_class(name, root)
        # A user's module may have one of these names too; then the user's class is meant.
        if (built_in := _BUILT_IN.get(name)) and not (found and issubclass(found, DictLikeModel)):
            return built_in
        if found is not None:
            return found
        module, _, short = name.rpartition(".")
        if not allowed:
            others = ", ".join(sorted(self._allowed or ())) or "the built-in events only"
            raise UnreadableValue(
                f"A stored value is of class {name!r}, which this serializer does not allow. Allowed: {others}. "
                f"To allow it add {short} to allowed_types."
            )
        what = {None: "class of values", BaseModel: "pydantic model"}.get(root, "class")
        raise UnreadableValue(
            f"A stored value is of class {name!r}, and no {what} of this name is loaded in this process. Classes that "
            f"data name are never imported: import {module or 'the module that defines it'} first, or give the class "
            "itself in allowed_types."
        )


class PickleSerializer(JsonSerializer):
    """JSON where that is possible, else a pickle as base64. **Only for data that you wrote yourself.**

    Anyone who can change a pickle can run any code where it is read; `allowed_types` does not apply to pickles. It is
    for a program that keeps its own snapshots: umbel never reads a pickle from Redis, a broker or an HTTP request, and
    no part of a run may need one.
    """

    def serialize(self, value: Any) -> str:
        """The value as JSON text, else as base64 of its pickle.

        Raises:
            ValueError: It cannot be pickled either.
        """
        try:
            return super().serialize(value)
        except ValueError as no_json:
            try:
                return base64.b64encode(pickle.dumps(value)).decode()
            except Exception as error:  # a user's __reduce__ may raise anything
                raise ValueError(
                    f"{no_json} It cannot be pickled either: {type(error).__qualname__}: {error}."
                ) from error

    def deserialize(self, value: str) -> Any:
        """The inverse of `serialize`. Text that is not a pickle is read as JSON.

        Raises:
            ContextSerdeError: It is neither, or it names a class that is not available here.
        """
        try:
            pickled = base64.b64decode(value, validate=True)
        except (ValueError, TypeError):
            return super().deserialize(value)
        if not pickled.startswith(_PICKLE_START):
            return super().deserialize(value)
        try:
            return pickle.loads(pickled)
        except Exception as error:  # a user's __setstate__ may raise anything
            raise UnreadableValue(
                f"{_shown(value)} is a pickle that cannot be read here: {type(error).__qualname__}: {error}. "
                "It was cut short, or a class in it has moved since."
            ) from error


#: The name in older releases of LlamaIndex Workflows.
JsonPickleSerializer = PickleSerializer


def _class_name(cls: type[Any]) -> str:
    return event_name(cls) if issubclass(cls, Event) else qualified_name(cls)


def _is_component(value: Any) -> bool:
    """Whether its class says how to write it. An event is none: it may have a field called `class_name`."""
    cls = type(value)
    return not isinstance(value, DictLikeModel) and all(
        callable(getattr(cls, name, None)) for name in ("class_name", "to_dict", "from_dict")
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _misfit(name: str, error: Exception) -> UnreadableValue:
    return UnreadableValue(
        f"A stored {name} does not fit its class: {field_problems(error)}. If the class has changed since, give new "
        "fields a default and keep accepting the old ones."
    )

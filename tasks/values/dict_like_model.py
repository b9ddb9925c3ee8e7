"""Pydantic models that keep undeclared keyword arguments as dynamic data: the base of events, and `DictState`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import cached_property
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

#: The named half of the dict interface. Not real methods, so that an event may declare a field `items` or `values`.
_DICT_METHODS = ("items", "keys", "values")
#: Those that change the data. Dynamic data of the same name take precedence: `ev.update` had that meaning first.
_CHANGING_METHODS = ("clear", "pop", "popitem", "setdefault", "update")


class _Changing(MutableMapping[str, Any]):
    """The dynamic data of a model, as a mapping whose changes obey the model's rules."""

    def __init__(self, model: DictLikeModel) -> None:
        self._model = model

    def __getitem__(self, key: str) -> Any:
        return self._model[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._model[key] = value

    def __delitem__(self, key: str) -> None:
        del self._model[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._model._data)

    def __len__(self) -> int:
        return len(self._model._data)


class DictLikeModel(BaseModel):
    """A pydantic model that keeps undeclared keyword arguments and offers them as attributes and as dict items.

    `ev["x"]`, `"x" in ev`, `len(ev)`, iteration, `get`, `keys`, `values`, `items` and `to_dict()` see only dynamic
    data. So do `del ev["x"]`, `pop`, `popitem`, `setdefault`, `update` and `clear`, which change it.
    `ev["declared_field"]` is a KeyError. `bool(ev)` is always True. Private attributes may be passed by name.
    `model_dump()` puts dynamic data, if there is any, under `"_data"`; `model_validate` accepts it there or flat.

    A subclass may forbid dynamic data with `model_config = ConfigDict(extra="forbid")`.
    """

    # NaN must stay visible in dumps: null would silently be read as None.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow", ser_json_inf_nan="constants")

    #: Inputs that are kept in a private attribute of another name: input -> attribute.
    _kept_private: ClassVar[Mapping[str, str]] = {}

    @property
    def _data(self) -> dict[str, Any]:
        """The dynamic data themselves, not a copy."""
        return self.__pydantic_extra__ if self.__pydantic_extra__ is not None else {}

    @model_validator(mode="after")
    def _sort_undeclared(self) -> Self:
        """Move private attributes to their place and unpack `_data`; what remains is dynamic data."""
        undeclared = self.__pydantic_extra__
        if not undeclared:
            return self
        cls = type(self)
        folded = undeclared.pop("_data", {})
        for name in list(undeclared):
            private = cls._kept_private.get(name, name)
            if private in cls.__private_attributes__:
                setattr(self, private, undeclared.pop(name))
            elif name in cls.model_computed_fields:
                del undeclared[name]  # from a dump that contained computed fields
        if not isinstance(folded, dict):
            raise ValueError(f"_data must be a dict of dynamic data, got {type(folded).__qualname__}")
        undeclared.update(folded)
        if declared := [name for name in undeclared if name in cls.model_fields]:
            raise ValueError(f"declared as fields of {cls.__qualname__}, so not possible as dynamic data: {declared}")
        return self

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        if dynamic := {name: dumped.pop(name) for name in self._data if name in dumped}:
            dumped["_data"] = dynamic
        return dumped

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Show only the declared fields: forms are built from this."""
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        if resolved.get("additionalProperties") is True and "properties" in resolved:
            del resolved["additionalProperties"]
        return schema

    def __getattr__(self, name: str) -> Any:
        if name == "get":
            return self._get
        if name in _DICT_METHODS:
            return getattr(self._data, name)
        if name in _CHANGING_METHODS and name not in self._data:
            return getattr(_Changing(self), name)
        return super().__getattr__(name)  # type: ignore[misc]  # pydantic hides it from type checkers

    def _get(self, key: str, default: Any = None) -> Any:
        return self._data.get(key, default)  # dict.get takes no default by name

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__pydantic_extra__ is None or self.model_config.get("frozen") or self._is_declared(name):
            super().__setattr__(name, value)
        else:
            self._data[name] = value

    @classmethod
    def _is_declared(cls, name: str) -> bool:
        if name in cls.model_fields or name in cls.__private_attributes__ or name in cls.__class_vars__:
            return True
        return name.startswith("__") or isinstance(getattr(cls, name, None), (property, cached_property))

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        cls = type(self)
        if key in cls.model_fields:
            raise KeyError(f"{key!r} is a declared field of {cls.__qualname__}: set it as an attribute")
        if self.__pydantic_extra__ is None:
            raise KeyError(f"{cls.__qualname__} forbids dynamic data, so {key!r} cannot be set")
        self._data[key] = value

    def __delitem__(self, key: str) -> None:
        del self._data[key]

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # a dict's iteration, not a pydantic model's
        return iter(self._data)

    def __bool__(self) -> bool:
        return True

    def to_dict(self) -> dict[str, Any]:
        """A copy of the dynamic data."""
        return dict(self._data)


class DictState(DictLikeModel):
    """State with any keys: `state["k"]`, `state.k`, `"k" in state`, `del state["k"]`.

    A key that is also the name of a method (`items`, `copy`, …) is available as `state["copy"]` and by path. Values are
    JSON or pydantic models.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        # Names of methods too: pydantic would set them on the instance, and they would never be stored.
        if name in type(self).model_fields or name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self:
            del self[name]
        else:
            super().__delattr__(name)

"""Instances from their fields: built without their constructors, or field by field as pydantic reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, SchemaValidator
from pydantic_core.core_schema import CoreConfig, CoreSchema

from .class_names import module_path
from .plain_fields import has_post_init

M = TypeVar("M", bound=BaseModel)

NOTHING: Mapping[str, Any] = MappingProxyType({})

_digests: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_validators: WeakKeyDictionary[type, dict[str, SchemaValidator]] = WeakKeyDictionary()


def digest_of(cls: type[Any]) -> str:
    """A short text that stays the same while the fields of a class do: their names, order and types."""
    digest = _digests.get(cls)
    if digest is None:
        if issubclass(cls, BaseModel):
            fields: list[Any] = [(name, each.annotation, each.is_required()) for name, each in cls.model_fields.items()]
        else:
            fields = [(each.name, each.type) for each in dataclasses.fields(cls)]
        # Equal in every process: without addresses, and with the importable name of the main module.
        text = re.sub(r" at 0x[0-9a-f]+", "", repr(fields))
        text = re.sub(r"\b__(mp_)?main__\b", module_path("__main__"), text)
        digest = _digests[cls] = hashlib.sha256(text.encode()).hexdigest()[:8]
    return digest


def construct(cls: type[M], fields: dict[str, Any], extra: Mapping[str, Any] = NOTHING) -> M:
    """An instance with these fields. No validator, constructor or `model_post_init` sees them.

    Excluded fields that were not sent have their defaults. Private attributes are those of a new instance with these
    fields: if a constructor or `model_post_init` sets them, it is called for a second instance, from which they are
    taken.
    """
    if len(fields) < len(cls.model_fields):
        left = {name: each for name, each in cls.model_fields.items() if each.exclude and name not in fields}
        fields |= {name: each.get_default(call_default_factory=True, validated_data={}) for name, each in left.items()}
    model = cls.__new__(cls)
    put = object.__setattr__
    put(model, "__dict__", fields)
    put(model, "__pydantic_fields_set__", set(fields))
    if cls.__pydantic_root_model__:
        return model  # it has neither undeclared nor private values
    put(model, "__pydantic_extra__", dict(extra) if cls.model_config.get("extra") == "allow" else None)
    private: dict[str, Any] | None = None
    if cls.__private_attributes__:
        found = {name: each.get_default() for name, each in cls.__private_attributes__.items()}
        private = {name: each for name, each in found.items() if each is not PydanticUndefined}
        if (cls.__pydantic_custom_init__ or has_post_init(cls)) and set(private) != {"_result"}:
            private |= _private_of_a_new_one(cls, fields)
    put(model, "__pydantic_private__", private)
    return model


def _private_of_a_new_one(cls: type[BaseModel], fields: dict[str, Any]) -> dict[str, Any]:
    try:
        return cls.model_validate(deepcopy(fields), by_alias=False, by_name=True).__pydantic_private__ or {}
    except Exception:  # a constructor with another signature
        return {}


def is_computed(cls: type[Any], name: str) -> bool:
    """Whether an attribute of an instance is the stored result of a `cached_property`: it is computed again."""
    return isinstance(inspect.getattr_static(cls, name, None), cached_property)


def read_by_field(cls: type[BaseModel], name: str, written: Any) -> Any:
    """A value as the validators of its field read it from JSON.

    Raises:
        Exception: What they raised.
    """
    validators = _validators.setdefault(cls, {})
    if name not in validators:
        validators[name] = SchemaValidator(*_field_schema(cls, name))
    return validators[name].validate_json(json.dumps(written))


def _field_schema(cls: type[BaseModel], name: str) -> tuple[CoreSchema, CoreConfig | None]:
    """The part of a class's schema that describes one field."""
    schema: Any = cls.__pydantic_core_schema__
    definitions: list[Any] = []
    config: CoreConfig | None = None
    while schema["type"] != "model-fields":
        if schema["type"] == "definitions":
            definitions = schema["definitions"]
        if schema["type"] == "definition-ref":
            schema = next(each for each in definitions if each["ref"] == schema["schema_ref"])
        else:
            config = schema.get("config", config)
            schema = schema["schema"]
    field = schema["fields"][name]["schema"]
    if definitions:
        field = {"type": "definitions", "schema": field, "definitions": definitions}
    return field, config

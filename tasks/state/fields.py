"""Converts states to the fields of a Redis hash, one JSON value per top-level key, and back.

Declared fields are written by pydantic if it reads them back as equal values, else by `exact_values`, tagged. The
keys of a `DictState` have no declared type: values that JSON does not support are tagged with the name of their class.
That class is looked up among the classes already loaded and never imported.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from ...orchestration.connection.settings import Settings
from ...orchestration.model.errors import PayloadTooLarge, UnserializableValue, WorkflowRuntimeError
from ...orchestration.model.tagged_json import MORE, TAG, TAG_BYTES, NotJson, tagged, untagged
from ...orchestration.state.redis_hash import Change
from ..values.class_names import loaded_class, qualified_name
from ..values.dict_like_model import DictState
from ..values.exact_reading import ClassNotLoaded, read_field
from ..values.exact_values import write_fields
from ..values.field_values import construct, digest_of, read_by_field
from ..values.json_values import (
    dump_json,
    dump_model,
    field_problems,
    from_json_value,
    load_model,
    to_json_object,
    unloaded_class,
)
from ..values.plain_fields import is_json, plain_fields, runs_code
from .paths import assign, twin

_log = logging.getLogger(__name__)

StateT = TypeVar("StateT", bound=BaseModel)

#: Field that names the state's class if it is a subclass of the one that the workflow's steps declare.
CLASS_FIELD = ""

#: Keys whose size was logged, and how many of them are remembered.
_warned: set[str] = set()
_MOST_WARNED = 1_000

_CLASS_BYTES = TAG_BYTES + b":true"


class StateMismatch(WorkflowRuntimeError):
    """A stored state no longer matches its class."""


class EditBlock:
    """An `edit_state` block in which the current code runs. Tasks started inside the block also count as inside."""

    def __init__(self, state: Any) -> None:
        """Args:
        state: Identifies the edited state; equal for the same state.
        """
        self.state = state
        self.open = True

    def enter(self) -> None:
        """Open the block for the current context, and for tasks started from it."""
        _blocks.set((*(block for block in _blocks.get() if block.open), self))


_blocks: ContextVar[tuple[EditBlock, ...]] = ContextVar("umbel_edit_blocks", default=())


def refuse_inside_edit(state: Any) -> None:
    """Refuse to write to a state that the caller is editing: the write would wait for the edit to end.

    Raises:
        RuntimeError: The caller is inside a block for the same state.
    """
    if any(block.open and block.state == state for block in _blocks.get()):
        raise RuntimeError("writer called inside edit_state: mutate the yielded state instead")


class StateFields(Generic[StateT]):
    """Writes and reads the states of one class and run."""

    def __init__(self, cls: type[StateT], run_id: str, settings: Settings) -> None:
        """Args:
        cls: The class that the workflow's steps declare.
        run_id: For errors.
        settings: Limits the size of a value.
        """
        self.cls = cls
        self.run_id = run_id
        self.settings = settings

    def is_dynamic(self, key: str) -> bool:
        """Whether a top-level key is a dynamic key of a `DictState`, not a declared field."""
        return issubclass(self.cls, DictState) and key not in self.cls.model_fields

    def stored_class(self, raw: Mapping[str, bytes]) -> type[StateT]:
        """The class of a stored state: the declared one, or a subclass of it that is loaded here."""
        name = raw.get(CLASS_FIELD)
        return (loaded_class(json.loads(name), self.cls) if name is not None else None) or self.cls

    # -- reading ---------------------------------------------------------------------------------------------------

    def load(self, raw: Mapping[str, bytes]) -> StateT:
        """The state made from these fields; missing fields get their defaults.

        Raises:
            ValueError: Nothing is stored and a field has no default.
            StateMismatch: The stored fields do not match the class.
        """
        try:
            return self._build(raw)
        except (ValidationError, ClassNotLoaded) as error:
            if not raw:
                raise ValueError("State must have defaults for all fields") from error
            raise StateMismatch(
                f"The state of run {self.run_id!r} does not fit {qualified_name(self.stored_class(raw))}: "
                f"{field_problems(error)}. If the class has changed since, give new fields a default and keep "
                "accepting the old ones."
            ) from error

    def _build(self, raw: Mapping[str, bytes]) -> StateT:
        cls = self.stored_class(raw)
        undeclared = cls.model_config.get("extra") == "allow"
        declared: dict[str, Any] = {}
        exact: dict[str, Any] = {}
        dynamic: dict[str, Any] = {}
        is_same = True
        for key, data in raw.items():
            if key == CLASS_FIELD:
                continue
            if issubclass(cls, DictState) and key not in cls.model_fields:
                dynamic[key] = self.load_value(key, data)
            elif undeclared or key in cls.model_fields:
                value = json.loads(data)
                if _CLASS_BYTES not in data:
                    declared[key] = value
                elif (field := _exact_field(value)) is None:
                    declared[key] = untagged(value)
                else:
                    exact[key] = read_field(cls, key, *field[:2])
                    is_same = is_same and field[2] == digest_of(cls)
        state = _put_together(cls, exact, declared) if exact and is_same else None
        if state is None and exact:
            state = cls.model_validate(declared | exact, by_alias=plain_fields(cls).by_alias, by_name=True)
        elif state is None:
            state = load_model(cls, declared)
        for key, value in dynamic.items():
            cast(DictState, state)[key] = value
        return state

    def load_value(self, key: str, data: bytes) -> Any:
        """The value of a dynamic key. A tagged value whose class is not loaded here becomes a plain dict.

        Raises:
            StateMismatch: A model in the value no longer matches its class.
        """
        try:
            return from_json_value(json.loads(data))
        except ValidationError as error:
            raise StateMismatch(
                f"Key {key!r} of the state of run {self.run_id!r} does not fit its class {error.title}: "
                f"{field_problems(error)}. If the class has changed since, give new fields a default and keep "
                "accepting the old ones."
            ) from error

    def default(self, cls: type[StateT]) -> StateT:
        """A state in which every field has its default.

        Raises:
            ValueError: A field has no default.
        """
        return default_state(cls)

    # -- writing ---------------------------------------------------------------------------------------------------

    def one_value(self, key: str, value: Any, how: str) -> Change:
        """The change that sets a dynamic key to a value.

        Raises:
            UnserializableValue: The value is neither JSON nor a pydantic model.
            PayloadTooLarge: It is larger than the settings allow.
        """
        try:
            return self._change(how, {key: dump_json(to_json_object({key: value})[key])})
        except NotJson as flaw:
            raise self._unserializable(flaw) from flaw

    def whole(self, state: BaseModel, how: str) -> Change:
        """The change that replaces the whole stored state by this one.

        Raises:
            UnserializableValue, PayloadTooLarge: As in `one_value`, for any of its values.
            pydantic.ValidationError: A field holds a value that its type forbids.
        """
        return self._change(how, self._dump(state), replace=True)

    def difference(self, raw: Mapping[str, bytes], state: BaseModel, how: str) -> Change | None:
        """The change that turns the stored fields into this state; None if they are equal.

        Fields that the class does not know stay as they are.

        Raises:
            UnserializableValue, PayloadTooLarge: As in `one_value`, for new values.
            pydantic.ValidationError: A field holds a value that its type forbids.
            WorkflowRuntimeError: A changed value contains a model whose class is not loaded here.
        """
        fields = self._dump(state)
        if fields == raw:
            return None
        # The JSON of equal values may differ if another version of the class or of umbel wrote it. Dynamic keys are
        # independent of each other, so only those whose JSON differs are compared again.
        whole = bool(type(state).model_fields)
        before = self._dump(self.load({key: data for key, data in raw.items() if whole or fields.get(key) != data}))
        changed = {key: data for key, data in fields.items() if data not in (raw.get(key), before.get(key))}
        deleted = [key for key in raw if key in before and key not in fields]
        for key in changed:
            self._refuse_unloaded(key, raw.get(key))
        return self._change(how, changed, deleted) if changed or deleted else None

    def _dump(self, state: BaseModel) -> dict[str, bytes]:
        """All fields of a state, and its class if that is a subclass."""
        try:
            values = self._declared(state) if type(state).model_fields else {}
            if isinstance(state, DictState):
                values |= to_json_object(state.to_dict())
            fields = {key: _encode(key, value) for key, value in values.items()}
        except NotJson as flaw:
            raise self._unserializable(flaw) from flaw
        if CLASS_FIELD in fields:
            raise UnserializableValue(
                f"The state of run {self.run_id!r} cannot be written: it has the key ''. Give the key a name."
            )
        if type(state) is not self.cls:
            fields[CLASS_FIELD] = dump_json(qualified_name(type(state)))
        if type(state).model_fields and not runs_code(type(state)):
            _refuse_misfits(state)  # now, rather than in a later step that reads the state
        return fields

    def _change(
        self, how: str, fields: dict[str, bytes], deleted: Sequence[str] = (), *, replace: bool = False
    ) -> Change:
        for key, data in fields.items():
            if len(data) > self.settings.payload_warn_bytes:
                self._check_size(key, len(data))
        return Change(how, fields, deleted, replace)

    def _refuse_unloaded(self, key: str, data: bytes | None) -> None:
        """Refuse to change a value that was read as a plain dict because its class is not loaded here.

        Raises:
            WorkflowRuntimeError: The value is such a dict; writing it back would lose its class.
        """
        if data is not None and _CLASS_BYTES in data and (name := unloaded_class(json.loads(data))):
            raise WorkflowRuntimeError(
                f"Key {key!r} of the state of run {self.run_id!r} cannot be changed here: it holds a {name}, and no "
                "such class is loaded in this process. Import the module that defines it."
            )

    def _declared(self, state: BaseModel) -> dict[str, Any]:
        cls, extra = type(state), state.__pydantic_extra__ or {}
        known = plain_fields(cls)
        if known.fit(state.__dict__) and known.aliases.isdisjoint(extra) and is_json(state.__dict__ | extra):
            return dump_model(state, exclude=set(extra) if isinstance(state, DictState) else None)
        written, marks = write_fields(state)
        if not isinstance(state, DictState):
            written |= to_json_object(extra)
        digest = digest_of(cls)
        return {
            key: tagged("", value) | {MORE: {"m": marks.get(key), "v": digest}} if key in cls.model_fields else value
            for key, value in written.items()
        }

    def _check_size(self, key: str, size: int) -> None:
        if size > self.settings.payload_max_bytes:
            raise PayloadTooLarge(
                f"The state of run {self.run_id!r} cannot be written: key {key!r} has {size:,} bytes, at most "
                f"{self.settings.payload_max_bytes:,} are allowed (payload_max_bytes). Keep the data in a file, a "
                "bucket or a database, and their location in the state."
            )
        if key in _warned:
            return
        if len(_warned) >= _MOST_WARNED:
            _warned.clear()
        _warned.add(key)
        _log.warning(
            "Key %r of the state of run %s has %s bytes, more than %s (payload_warn_bytes). Every write of the key "
            "stores all of it; rather keep the data elsewhere and their location in the state. Logged once per "
            "key and process.",
            key,
            self.run_id,
            f"{size:,}",
            f"{self.settings.payload_warn_bytes:,}",
            extra={"action": "large_state", "run_id": self.run_id},
        )

    def _unserializable(self, flaw: NotJson) -> UnserializableValue:
        return UnserializableValue(f"The state of run {self.run_id!r} cannot be written: {flaw}")


def _exact_field(value: Any) -> tuple[Any, Any, str] | None:
    """For a declared field written by `exact_values`: its JSON, its marks and the digest of its class; else None."""
    more = value.get(MORE) if isinstance(value, dict) and value.get(TAG) is True else None
    if not isinstance(more, dict) or "v" not in more or value.get("qualified_name") != "":
        return None
    return value["value"], more.get("m"), more["v"]


def _put_together(cls: type[StateT], exact: dict[str, Any], declared: dict[str, Any]) -> StateT | None:
    """A state made from exactly written and other fields; None if a field without a default is missing."""
    others = {key: read_by_field(cls, key, each) for key, each in declared.items() if key in cls.model_fields}
    extra = {key: from_json_value(each) for key, each in declared.items() if key not in cls.model_fields}
    fields = {}
    for name, field in cls.model_fields.items():
        if name in exact or name in others:
            fields[name] = exact[name] if name in exact else others[name]
        elif field.is_required():
            return None
        else:
            fields[name] = field.get_default(call_default_factory=True, validated_data=fields)
    return construct(cls, fields, extra)


def _refuse_misfits(state: BaseModel) -> None:
    """Refuse values that the types of their fields forbid.

    Raises:
        pydantic.ValidationError: There is such a value.
    """
    cls, fields = type(state), {name: state.__dict__.get(name) for name in type(state).model_fields}
    if not plain_fields(cls).fit(state.__dict__):
        fields = {name: twin(value) for name, value in fields.items()}
    try:
        cls.model_validate(fields, by_alias=False, by_name=True)
    except ValidationError:
        load_model(cls, dump_model(state, exclude=set(state.__pydantic_extra__ or ())))


def _encode(key: str, value: Any) -> bytes:
    try:
        return dump_json(value)
    except NotJson as flaw:
        raise flaw.inside(key) from None


def default_state(cls: type[StateT]) -> StateT:
    """A state in which every field has its default.

    Raises:
        ValueError: A field has no default.
    """
    try:
        return cls()
    except ValidationError as error:
        raise ValueError("State must have defaults for all fields") from error


def check_replaceable(current: type[BaseModel], state: Any) -> bool:
    """Whether a state may replace one of the class `current`; if not, it can be merged into it.

    Raises:
        ValueError: Neither is possible.
    """
    if isinstance(state, current):
        return True
    if not isinstance(state, BaseModel) or not issubclass(current, type(state)):
        raise ValueError(
            f"State must be of type {current.__name__}, a subclass or a parent of it, got {type(state).__name__}"
        )
    return False


def merge(state: BaseModel, other: BaseModel) -> None:
    """Copy all fields of a state of a parent class into a state."""
    for key in type(other).model_fields:
        assign(state, [key], getattr(other, key))
    if isinstance(other, DictState):
        for key, value in other.to_dict().items():
            assign(state, [key], value)

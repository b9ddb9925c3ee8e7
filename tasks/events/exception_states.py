"""The state of an exception besides its message (arguments, attributes), and rebuilding it without its constructor."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast, get_args

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError
from pydantic_core.core_schema import ErrorType

from ...orchestration.model.tagged_json import NotJson
from ..values.exact_reading import read_exact
from ..values.exact_values import write_exact

E = TypeVar("E", bound=Exception)

#: Maximum size of one attribute, and of the whole state of an exception, in bytes of JSON.
_MAX_ONE = 8 * 1024
_MAX_ALL = 64 * 1024

#: Attributes that every exception has; they are sent in other fields.
_COMMON = frozenset(vars(BaseException)) | {"__notes__"}

_PYDANTIC_ERRORS = frozenset(get_args(ErrorType))


def state_of(exc: BaseException) -> dict[str, Any] | None:
    """Arguments and attributes as JSON; None where calling the class with plain arguments gives the same exception.

    Attributes that could not be restored, or are very large, are left out: a step must be able to fail.
    """
    cls = type(exc)
    if isinstance(exc, ValidationError):
        return _of_validation(exc)
    attributes = dict(_attributes(exc))
    own = cls.__init__ is _builtin(cls).__init__ and cls.__new__ is _builtin(cls).__new__
    if own and not attributes and not isinstance(exc, BaseExceptionGroup) and all(map(_is_plain, exc.args)):
        return None
    state: dict[str, Any] = {}
    args = (exc.message,) if isinstance(exc, BaseExceptionGroup) else exc.args
    if (written := _written(args)) is None:
        return None
    state["args"] = written
    size = 0
    for name, value in attributes.items():
        size += len(json.dumps(written)) if (written := _written(value)) is not None else 0
        if written is not None and size <= _MAX_ALL:
            state.setdefault("attributes", {})[name] = written
        else:
            state.setdefault("left_out", []).append(name)
    return state


def rebuilt(cls: type[E], state: Mapping[str, Any], members: list[Exception] | None) -> E:
    """An exception of this class from its state.

    Args:
        cls: The class.
        state: The result of `state_of`.
        members: The exceptions of a group; None if it is not a group.

    Raises:
        Exception: It cannot be rebuilt.
    """
    if issubclass(cls, ValidationError):
        return cast(E, _validation_error(cls, _read(state["errors"])))
    args = _read(state["args"])
    if members is not None:
        args = (*args, members)
    base = _builtin(cls)
    exc: E = base.__new__(cls, *args)
    base.__init__(exc, *args)
    if members is None:
        exc.args = args
    slots = {*_members(base), *_slots(cls)}
    for name, written in state.get("attributes", {}).items():
        value = _read(written)
        if name in slots:
            setattr(exc, name, value)
        else:
            exc.__dict__[name] = value
    if not has_usual_attributes(exc):
        exc.__dict__ |= dict.fromkeys(state.get("left_out", ()))
    return exc


def has_usual_attributes(exc: BaseException) -> bool:
    """Whether reading an attribute that it does not have raises AttributeError, as loggers and others expect.

    The `__getattr__` of some classes reads an attribute that was left out, and fails if that is missing.
    """
    try:
        return not hasattr(exc, "_umbel_has_no_such_attribute")
    except Exception:
        return False


def _builtin(cls: type) -> Any:
    """The built-in class that an exception class derives from: it determines the layout of instances."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def _members(base: type) -> Iterator[str]:
    """The attributes that a built-in exception class adds to those of `BaseException`."""
    for each in base.__mro__[: base.__mro__.index(BaseException)]:
        for name, found in vars(each).items():
            if isinstance(found, types.MemberDescriptorType | types.GetSetDescriptorType) and name not in _COMMON:
                yield name


def _slots(cls: type) -> Iterator[str]:
    """The attributes of an exception class that are in `__slots__`."""
    for each in cls.__mro__:
        if each.__module__ != "builtins":
            yield from (name for name, found in vars(each).items() if isinstance(found, types.MemberDescriptorType))


def _attributes(exc: BaseException) -> Iterator[tuple[str, Any]]:
    base = _builtin(type(exc))
    if not isinstance(exc, BaseExceptionGroup):
        try:
            fresh = base.__new__(base, *exc.args)
            base.__init__(fresh, *exc.args)
        except Exception:  # arguments of another shape
            fresh = None
        for name in _members(base):
            value = getattr(exc, name, None)
            if value is not None and (fresh is None or getattr(fresh, name, None) is not value):
                yield name, value
    for name in _slots(type(exc)):
        if hasattr(exc, name):
            yield name, getattr(exc, name)
    for name, value in vars(exc).items():
        if name not in _COMMON:
            yield name, value


def _is_plain(value: Any) -> bool:
    return type(value) in (int, float, bool, type(None)) or (type(value) is str and _is_utf8(value))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _written(value: Any) -> list[Any] | None:
    """A value and its mark; None if that is not possible or too long.

    If UTF-8 cannot encode them (half a surrogate pair in a file name), the result is one text: both as ASCII JSON.
    """
    try:
        written = list(write_exact(value))
        text = json.dumps(written, allow_nan=False, ensure_ascii=False)
        if not _is_utf8(text):
            written = [text := json.dumps(written)]
    except (NotJson, ValueError, RecursionError):
        return None
    return written if len(text.encode()) <= _MAX_ONE else None


def _read(written: list[Any]) -> Any:
    value, mark = json.loads(written[0]) if len(written) == 1 else written
    return read_exact(value, mark)


def _of_validation(exc: ValidationError) -> dict[str, Any] | None:
    errors = []
    for each in exc.errors(include_url=False):
        error = each.get("ctx", {}).get("error")
        context = {name: value for name, value in each.get("ctx", {}).items() if name != "error"}
        what = [each["type"], each["loc"], each["msg"], each["input"], context]
        errors.append([*what, str(error)] if error is not None else what)
    written = _written({"title": exc.title, "errors": errors})
    return None if written is None else {"errors": written}


def _validation_error(cls: Any, found: dict[str, Any]) -> Any:
    details: list[InitErrorDetails] = []
    for kind, loc, text, given, context, *error in found["errors"]:
        if kind in _PYDANTIC_ERRORS:
            more: dict[str, Any] = {"error": ValueError(*error)} if error and kind == "value_error" else {}
            more |= {"error": AssertionError(*error)} if error and kind == "assertion_error" else {}
            context = {**context, **(more or ({"error": error[0]} if error else {}))}
            details.append(InitErrorDetails(type=kind, loc=loc, input=given, ctx=context))
        else:
            # The text is final: nothing in it is a placeholder.
            own = PydanticCustomError(
                kind, text.replace("{", "{{").replace("}", "}}") if not context else text, context
            )
            details.append(InitErrorDetails(type=own, loc=loc, input=given))
    return cls.from_exception_data(found["title"], details)

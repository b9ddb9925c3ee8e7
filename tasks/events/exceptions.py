"""Exceptions that cross processes: encoded as a small JSON object, decoded as the same class if possible.

The object always has `exception_type` (`module.qualname`) and `exception_message`. Where they say more than the message
does, there are also `exception_args`, `exception_notes`, `exception_cause` or else `exception_context` (an object of
the same kind), `exception_members` (those of a group) and `exception_state` (arguments and attributes, by
`exception_states`). The failure of a step also has `exception_traceback`, a text for people.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..values.class_names import is_restricted, loaded_class, may_be_found, qualified_name
from .exception_states import has_usual_attributes, rebuilt, state_of

#: Characters of a message or note that are sent; a run must be able to fail however long the message is.
_MAX_TEXT = 64 * 1024
#: Bytes of constructor arguments that are sent, as JSON.
_MAX_ARGS = 8 * 1024
_MAX_NOTES = 20
#: How many causes of causes, and groups in groups, are sent; also ends a cycle of causes.
_MAX_CAUSES = 5
_MAX_MEMBERS = 100


class UnreconstructedException(Exception):
    """Stands for an exception whose class is not loaded here, or cannot be rebuilt without losing its message.

    Attributes:
        original_type: The class it had where it was raised, as `module.qualname`.
    """

    __module__ = "umbel.events"  # the import path for users, shown in tracebacks

    def __init__(self, message: str = "", *, original_type: str = "") -> None:
        super().__init__(message)
        self.original_type = original_type
        self._more: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"UnreconstructedException({str(self)!r}, original_type={self.original_type!r})"


def encode_exception(exc: BaseException, *, note: str | None = None) -> dict[str, Any]:
    """The exception as JSON: its class, its message, and whatever else JSON can carry. Never raises.

    Args:
        exc: Any exception, even one whose own methods and properties raise.
        note: Added to its notes.
    """
    try:
        encoded = _encode(exc, _MAX_CAUSES)
    except BaseException:  # no defect of an exception may hide that the step failed
        encoded = {"exception_type": qualified_name(type(exc)), "exception_message": _text(exc)}
    if note is not None:
        encoded["exception_notes"] = [*encoded.get("exception_notes", ()), _clean(note)]
    return encoded


def shown(exc: BaseException) -> str:
    """The exception's `repr`, cut at 2000 characters, for logs and other errors. Never raises."""
    try:
        return repr(exc)[:2000]
    except BaseException:
        return f"<{type(exc).__qualname__} that cannot be shown>"


def _encode(exc: BaseException, causes: int) -> dict[str, Any]:
    message = _text(exc)
    if isinstance(exc, UnreconstructedException):
        # A process that has the class can still rebuild it.
        encoded: dict[str, Any] = {"exception_type": exc.original_type, "exception_message": message, **exc._more}
    else:
        encoded = {"exception_type": qualified_name(type(exc)), "exception_message": message}
        args = _plain_args(exc)
        if args is not None and args != [message]:
            encoded["exception_args"] = args
        if (state := state_of(exc)) is not None:
            encoded["exception_state"] = state
        if isinstance(exc, BaseExceptionGroup) and causes > 0:
            encoded["exception_members"] = [_encode(member, causes - 1) for member in exc.exceptions[:_MAX_MEMBERS]]
    notes = getattr(exc, "__notes__", None)
    if isinstance(notes, list) and notes:
        encoded["exception_notes"] = [_clean(note) for note in notes[:_MAX_NOTES] if isinstance(note, str)]
    if causes > 0:
        if exc.__cause__ is not None:
            encoded["exception_cause"] = _encode(exc.__cause__, causes - 1)
        elif exc.__context__ is not None and not exc.__suppress_context__:
            encoded["exception_context"] = _encode(exc.__context__, causes - 1)
    return encoded


def _text(exc: BaseException) -> str:
    try:
        return _clean(str(exc))
    except BaseException:  # a broken __str__ must not hide that the step failed
        return f"<{type(exc).__qualname__} whose text cannot be read>"


def _clean(text: str) -> str:
    """The text with everything that UTF-8 cannot encode escaped, cut to `_MAX_TEXT` characters."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}… ({len(text) - _MAX_TEXT} characters cut)"


def _plain_args(exc: BaseException) -> list[Any] | None:
    """The constructor's arguments if they are short and plain, else None."""
    # OSError takes the file names out of `args`; only its __reduce__ has all of them.
    try:
        args = exc.__reduce__()[1] if isinstance(exc, OSError) else exc.args
        if not all(type(arg) in (str, int, float, bool, type(None)) for arg in args):
            return None
        encoded = json.dumps(args, allow_nan=False, ensure_ascii=False).encode()
    except Exception:  # a broken __reduce__, or text and numbers that JSON cannot carry
        return None
    return list(args) if len(encoded) <= _MAX_ARGS else None


def decode_exception(encoded: dict[str, Any]) -> Exception:
    """The inverse of `encode_exception`. Never raises, never imports.

    The class is looked up among those already loaded and must derive from `Exception`. If the attributes were sent, the
    exception is rebuilt without its constructor; else the class is called with the original arguments, else with the
    message alone. The result counts only if it has the original message.
    Otherwise the result is an `UnreconstructedException` that names the class. In data from outside (`only_classes`)
    the name becomes text, so that the next process that reads the exception does not rebuild it either.
    """
    name, message = str(encoded.get("exception_type", "")), str(encoded.get("exception_message", ""))
    if not may_be_found(name):
        name, message = "", f"{name}: {message}"
    notes, cause, context = (encoded.get(f"exception_{key}") for key in ("notes", "cause", "context"))
    notes = [str(note) for note in notes] if isinstance(notes, list) else []
    exc = _rebuild(name, message, encoded)
    if exc is None:
        exc = UnreconstructedException(message, original_type=name)
        exc._more = {key: encoded[key] for key in _MORE if key in encoded and name}
    for note in notes:
        exc.add_note(note)
    if isinstance(cause, dict):
        exc.__cause__ = decode_exception(cause)
    if isinstance(context, dict):
        exc.__context__ = decode_exception(context)
    return exc


def as_allowed(encoded: dict[str, Any]) -> dict[str, Any]:
    """The same exception; in data from outside (`only_classes`) the names of its classes become text."""
    return encode_exception(decode_exception(encoded)) if is_restricted() else encoded


#: Further keys that are needed to rebuild an exception.
_MORE = ("exception_args", "exception_state", "exception_members")


def _rebuild(name: str, message: str, encoded: dict[str, Any]) -> Exception | None:
    cls = loaded_class(name, Exception)
    if cls is None or cls is UnreconstructedException:
        return None
    args, state, members = (encoded.get(key) for key in _MORE)
    ways: list[Callable[[], Exception]] = []
    if isinstance(state, dict):
        found = [decode_exception(member) for member in members] if isinstance(members, list) else None
        ways.append(lambda: rebuilt(cls, state, found))
    if isinstance(args, list):
        ways.append(lambda: cls(*args))
    ways.append(lambda: cls(message))
    for way in ways:
        try:
            exc = way()
            if isinstance(exc, cls) and message in (str(exc), _text(exc)) and has_usual_attributes(exc):
                return exc
        except BaseException:  # a constructor with another signature; the next try or the stand-in has the message
            continue
    return None

"""Whether the code of a workflow mentions a name: what a run must be prepared for."""

from __future__ import annotations

import sys
from types import CodeType, FunctionType
from weakref import WeakKeyDictionary

_START_EVENT = "start_event"
_uses_start_event: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def mentions(function: object, name: str) -> bool:
    """Whether a function's own code mentions an attribute or global of this name."""
    return _in_code(getattr(function, "__code__", None), name)


def uses_start_event(cls: type) -> bool:
    """Whether a method of the class, or a function of its module, mentions `start_event`."""
    if (found := _uses_start_event.get(cls)) is None:
        module = sys.modules.get(cls.__module__)
        functions = [*vars(module).values()] if module is not None else []
        for each in cls.__mro__:
            functions += [] if each.__module__.startswith(_PACKAGE) else vars(each).values()
        found = _uses_start_event[cls] = any(
            isinstance(each, FunctionType) and mentions(each, _START_EVENT) for each in functions
        )
    return found


#: umbel's own code mentions the name, too.
_PACKAGE = f"{__name__.partition('.')[0]}."


def _in_code(code: CodeType | None, name: str) -> bool:
    if code is None:
        return False
    return name in code.co_names or any(
        _in_code(inner, name) for inner in code.co_consts if isinstance(inner, CodeType)
    )

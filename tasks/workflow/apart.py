"""Refuses differing instances with the same name if their runs are executed by a single instance elsewhere."""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

from ...orchestration.model.errors import WorkflowValidationError
from .definition import WorkflowDefinition

_PLAIN = (str, int, float, bool, bytes, Enum, type(None))


def constructor_values(workflow: WorkflowDefinition) -> dict[str, Any]:
    """The plain values of an instance's own constructor arguments, if it stores them in attributes of the same names.

    Other values, such as two clients of one service, may be equivalent without comparing equal.
    """
    kept = vars(workflow)
    found = {name: kept.get(name, kept.get(f"_{name}", _MISSING)) for name in _own_parameters(type(workflow))}
    return {name: value for name, value in found.items() if isinstance(value, _PLAIN)}


def check_same(name: str, first: dict[str, Any], workflow: WorkflowDefinition) -> None:
    """Refuse an instance whose constructor values differ from those of the first instance with its name.

    Raises:
        WorkflowValidationError: They differ, so workers would execute the runs of one of them with the other's values.
    """
    values = constructor_values(workflow)
    for each in first.keys() & values.keys():
        if first[each] != values[each]:
            cls = type(workflow).__name__
            raise WorkflowValidationError(
                f"{name!r} is run here with {each}={values[each]!r}, and was run with {each}={first[each]!r}. Workers "
                "execute both with the one instance that they have of this name. Register each in a module that the "
                f"workers load, umbel.register({cls}(…), name='…'), and run it under that name: "
                f"{cls}(…, workflow_name='…')."
            )


_MISSING = object()


_parameters: WeakKeyDictionary[type, tuple[str, ...]] = WeakKeyDictionary()


def _own_parameters(cls: type) -> tuple[str, ...]:
    if (found := _parameters.get(cls)) is None:
        umbels = inspect.signature(WorkflowDefinition).parameters
        found = _parameters[cls] = tuple(name for name in inspect.signature(cls).parameters if name not in umbels)
    return found

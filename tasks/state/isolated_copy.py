"""Copies of states whose values are anything at all, also what cannot be copied."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)


def isolated_copy(state: T) -> T:
    """A copy that shares nothing that can be copied.

    What cannot (a client, a lock) is shared, and so are fields with `exclude=True`; the dicts, lists and models around
    it are still copied.
    """
    excluded = (name for name, field in type(state).model_fields.items() if field.exclude)
    shared = {id(value): value for value in (getattr(state, name, None) for name in excluded)}
    copied: T = _Copying(shared).copied(state)
    return copied


class _Copying:
    def __init__(self, shared: dict[int, Any]) -> None:
        self._twins = dict(shared)

    def copied(self, value: Any) -> Any:
        if id(value) in self._twins:
            return self._twins[id(value)]
        try:
            # With a memo of its own: one of a copy that failed contains half-filled dicts.
            twin = copy.deepcopy(value, dict(self._twins))
        except Exception:  # a user's __deepcopy__ may raise anything
            return self._by_parts(value)
        self._twins[id(value)] = twin
        return twin

    def _by_parts(self, value: Any) -> Any:
        """Copy the containers, share what cannot be copied. Twins are known before they are filled: circles end."""
        if type(value) is dict:
            twin: Any = {}
            self._twins[id(value)] = twin
            twin.update((key, self.copied(item)) for key, item in value.items())
        elif type(value) is list:
            twin = []
            self._twins[id(value)] = twin
            twin.extend(self.copied(item) for item in value)
        elif type(value) is tuple:
            twin = tuple(self.copied(item) for item in value)
        elif isinstance(value, BaseModel):
            twin = BaseModel.model_copy(value)
            self._twins[id(value)] = twin
            for values in (twin.__dict__, twin.__pydantic_extra__ or {}, twin.__pydantic_private__ or {}):
                for key in list(values):
                    values[key] = self.copied(values[key])
        else:
            twin = value
        return twin

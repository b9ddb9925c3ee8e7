"""JSON Patch (RFC 6902): the difference between two JSON values, and applying a patch."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..model.errors import WorkflowRuntimeError

_INDEX = re.compile("0|[1-9][0-9]{0,17}")
_BAD_ESCAPE = re.compile("~(?![01])")


def difference(before: Any, after: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The operations `add`, `remove` and `replace` that turn one value into the other, in an order that works."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before:
            if name not in after:
                yield {"op": "remove", "path": f"{path}/{_escaped(name)}"}
        for name, value in after.items():
            if name in before:
                yield from difference(before[name], value, f"{path}/{_escaped(name)}")
            else:
                yield {"op": "add", "path": f"{path}/{_escaped(name)}", "value": value}
    elif isinstance(before, list) and isinstance(after, list):
        common = min(len(before), len(after))
        for index in range(common):
            yield from difference(before[index], after[index], f"{path}/{index}")
        for index in range(len(before) - 1, common - 1, -1):
            yield {"op": "remove", "path": f"{path}/{index}"}
        for value in after[common:]:
            yield {"op": "add", "path": f"{path}/-", "value": value}
    elif type(before) is not type(after) or before != after:
        yield {"op": "replace", "path": path, "value": after}


def value_at(value: Any, path: str) -> Any:
    """The part of a value at an operation's path.

    Raises:
        KeyError, IndexError: The path does not exist.
    """
    for name in map(_plain, path.split("/")[1:]):
        value = value[int(name) if isinstance(value, list) else name]
    return value


def _names(path: Any) -> list[str]:
    if not isinstance(path, str) or (path and not path.startswith("/")) or _BAD_ESCAPE.search(path):
        raise ValueError(f"{path!r} is not a JSON Pointer: expected '' or a text like '/items/0/price'")
    return [_plain(name) for name in path.split("/")[1:]]


def _inside(value: Any, name: str) -> Any:
    return value[_index(name) if isinstance(value, list) else name]


def _index(name: str) -> int:
    if not _INDEX.fullmatch(name):
        raise ValueError(f"{name!r} is not an index of a list")
    return int(name)


def patched(value: Any, patch: Sequence[dict[str, Any]]) -> Any:
    """The value after these operations: `add`, `remove`, `replace` and `test`.

    Raises:
        WorkflowRuntimeError: An operation does not fit; the message names it.
    """
    made = copy.deepcopy(value)
    for operation in patch:
        try:
            made = _applied(made, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise WorkflowRuntimeError(
                f"The patch does not fit: {operation!r} cannot be applied ({type(error).__name__}: {error}). Expected "
                "an operation add, remove, replace or test of RFC 6902 on a path that exists."
            ) from error
    return made


def _applied(value: Any, operation: dict[str, Any]) -> Any:
    op, names = operation["op"], _names(operation["path"])
    if op not in ("add", "remove", "replace", "test"):
        raise ValueError(op)
    if not names:
        if op == "test" and value != operation["value"]:
            raise ValueError("the value differs")
        return value if op == "test" else None if op == "remove" else copy.deepcopy(operation["value"])
    parent = value
    for name in names[:-1]:
        parent = _inside(parent, name)
    key: Any = names[-1]
    if isinstance(parent, list):
        key = len(parent) if key == "-" else _index(key)
        if op == "add":
            if key > len(parent):
                raise IndexError(key)
            parent.insert(key, copy.deepcopy(operation["value"]))
            return value
    elif op == "add":
        parent[key] = copy.deepcopy(operation["value"])
        return value
    found = parent[key]
    if op == "test":
        if found != operation["value"]:
            raise ValueError("the value differs")
    elif op == "remove":
        del parent[key]
    else:
        parent[key] = copy.deepcopy(operation["value"])
    return value


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _plain(name: str) -> str:
    return name.replace("~1", "/").replace("~0", "~")

"""Parses requests about a run's past, and turns the library's refusals into responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException

from ...orchestration.history.forks.edits import edited_state
from ...orchestration.model.errors import (
    ContextSerdeError,
    HistoryDamaged,
    HistoryUnavailable,
    PointNotFound,
    RunError,
    RunNotFound,
    WorkflowRuntimeError,
)
from ...orchestration.model.tagged_json import MORE, TAG
from ..http.parsing import read_object


@contextmanager
def refusals(unavailable: int = 410) -> Iterator[None]:
    """Within the block, an error raised by the library is answered with its message.

    404 for a point that never existed, `unavailable` for one that is not kept, 422 for a damaged journal, 409 if
    nothing can continue from the point or an edit does not fit.
    """
    try:
        yield
    except (PointNotFound, RunNotFound) as error:
        raise HTTPException(404, str(error)) from error
    except HistoryUnavailable as error:
        raise HTTPException(unavailable, str(error)) from error
    except HistoryDamaged as error:
        raise HTTPException(422, str(error)) from error
    except (RunError, WorkflowRuntimeError, ContextSerdeError) as error:
        raise HTTPException(409, str(error)) from error


def read_edits(raw: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body of a request to continue from a point, and the edits in it.

    Raises:
        HTTPException: 400, it is not an object, or an edit is malformed.
    """
    body = read_object(raw or b"{}", "Invalid JSON body")
    state, events = body.get("state"), body.get("events")
    is_patch = isinstance(state, list) and all(isinstance(each, dict) for each in state)
    if not is_patch and not isinstance(state, dict | None):
        raise HTTPException(400, "'state' must be an object by key, or a JSON Patch")
    fields = events.values() if isinstance(events, dict) else ()
    if not isinstance(events, dict | None) or not all(isinstance(each, dict) for each in fields):
        raise HTTPException(400, "'events' must be an object of fields by step or work item")
    return body, {"state": None if state is None else partial(_edited_by_client, state), "events": events}


def _edited_by_client(edit: dict[str, Any] | list[dict[str, Any]], state: dict[str, Any]) -> dict[str, Any]:
    """A state after a client's edit, which may change values of classes that the state has, but add no others."""
    known = set(_tags(state))
    made = edited_state(state, edit)
    for tag in _tags(made):
        if tag not in known:
            raise WorkflowRuntimeError(
                f"The edited state names the class {tag[0]}, of which the state had no such value. Clients may edit "
                "values of classes that the state already has; other values must be JSON."
            )
    return made


def _tags(value: Any) -> Iterator[tuple[str, str]]:
    """Class and further data of all tagged values in stored JSON."""
    level = [value]
    while level:
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                if each.get(TAG) is True:
                    yield json.dumps(each.get("qualified_name")), json.dumps(each.get(MORE), sort_keys=True)
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        level = inner


def read_point(value: Any, name: str = "point") -> int | str:
    """Parse the name of a point: its number, also as text, or `before STEP`, `after STEP#2`.

    Raises:
        HTTPException: 400, it is neither.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:15])
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise HTTPException(400, f"{name!r} is required: the number of a point, or 'before STEP', 'after STEP#2'")
    return value

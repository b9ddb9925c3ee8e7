"""Snapshots of older versions, converted to the shape of `shape.py`.

* Version 2 has that shape.
* Version 1 has only the events of work in progress, and no fan-outs. Its waiters may have `requirements`.
* Version 0, which has no version number, consists of lists of events as JSON texts inside the JSON:
  `queues` (by step, or by the id of a waiter), `in_progress` and `event_buffers` (by step and class). Waiters, attempts
  and what the stream has already shown (`streaming_queue`, `broker_log`, `accepted_events`) are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ...orchestration.model.errors import ContextSerdeError
from ..values.json_values import field_problems
from .shape import VERSION, Snapshot


def load_snapshot(data: Mapping[str, Any]) -> Snapshot:
    """A snapshot of any known version. The data itself is not changed.

    Raises:
        ContextSerdeError: Its version is newer or invalid, it is damaged, or it contains what umbel does not support;
            the text says what was found where.
    """
    try:
        return Snapshot.model_validate(upgraded(data))
    except ValidationError as error:
        raise ContextSerdeError(
            f"Not a snapshot of a context: {field_problems(error)}. Pass what Context.to_dict() returned."
        ) from error


def upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """The snapshot as a dict in the current version; its entries are not validated yet.

    Raises:
        ContextSerdeError: As in `load_snapshot`, for the version and the structure of older versions.
    """
    if not isinstance(data, Mapping):
        raise ContextSerdeError(
            f"A snapshot of a context is a dict, this is a {type(data).__qualname__}. Pass what Context.to_dict() "
            "returned; parse JSON text with json.loads first."
        )
    version = data.get("version", 0)
    if version is None:
        version = 0
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise ContextSerdeError(
            f"This snapshot of a context has version {version!r}; expected a whole number from 0 to "
            f"{VERSION}, or none for the oldest kind. It is damaged, or not a snapshot."
        )
    if version > VERSION:
        raise ContextSerdeError(
            f"This snapshot of a context has version {version}; this release reads up to version {VERSION}. It was "
            "written by a newer release: load it with that."
        )
    if data.get("child_brokers"):
        raise ContextSerdeError(
            f"This snapshot of a context has running child workflows ({', '.join(map(repr, data['child_brokers']))}), "
            "which umbel does not support. Let them end before taking the snapshot."
        )
    if version == 0:
        return from_version_1(from_version_0(data))
    return from_version_1(data) if version == 1 else dict(data)


def from_version_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 as version 2: work in progress becomes first attempts."""
    workers: dict[str, Any] = {}
    for step, worker in _dict(data, "workers").items():
        if not isinstance(worker, Mapping):
            raise _damaged(f"workers.{step}", "a dict", worker)
        in_progress = [
            {"event": entry} if isinstance(entry, str) else entry
            for entry in _list(worker, "in_progress", f"workers.{step}.")
        ]
        workers[step] = {**worker, "in_progress": in_progress}
    return {**data, "version": VERSION, "workers": workers}


def from_version_0(data: Mapping[str, Any]) -> dict[str, Any]:
    """Version 0 as version 1: work in progress is queued ahead of what was queued already."""
    queues, in_progress, buffers = (_dict(data, name) for name in ("queues", "in_progress", "event_buffers"))
    waiters = set(_list(data, "waiting_ids"))
    workers = {
        step: {
            "queue": [{"event": event} for event in [*_list(in_progress, step, "in_progress."), *_queue(queues, step)]],
            "collected_events": _collected(buffers, step),
        }
        for step in {**queues, **in_progress, **buffers}
        if step not in waiters
    }
    return {
        "version": 1,
        "state": _dict(data, "state"),
        "is_running": data.get("is_running", False),
        "workers": workers,
    }


def _queue(queues: Mapping[str, Any], step: str) -> list[Any]:
    text = queues.get(step, "[]")
    try:
        events = json.loads(text)
    except (ValueError, TypeError) as error:
        raise _damaged(f"queues.{step}", "the JSON text of a list", text) from error
    if not isinstance(events, list):
        raise _damaged(f"queues.{step}", "the JSON text of a list", text)
    return events


def _collected(buffers: Mapping[str, Any], step: str) -> dict[str, list[Any]]:
    """All of a step's buffers, merged into the default one: version 0 did not keep their ids."""
    by_class = _dict(buffers, step, "event_buffers.")
    place = f"event_buffers.{step}."
    events = [event for name in by_class for event in _list(by_class, name, place)]
    return {"default": events} if events else {}


def _dict(data: Mapping[str, Any], name: str, place: str = "") -> Mapping[str, Any]:
    value = data.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _damaged(f"{place}{name}", "a dict", value)
    return value


def _list(data: Mapping[str, Any], name: str, place: str = "") -> list[Any]:
    value = data.get(name)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise _damaged(f"{place}{name}", "a list", value)
    return list(value)


def _damaged(place: str, expected: str, found: Any) -> ContextSerdeError:
    text = repr(found)
    shown = text if len(text) <= 60 else f"{text[:60]}…"
    return ContextSerdeError(
        f"This snapshot of a context is damaged: {place} should be {expected}, found {shown}. Pass what "
        "Context.to_dict() returned."
    )

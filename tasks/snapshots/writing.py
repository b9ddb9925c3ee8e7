"""Snapshots as JSON, in the shape that LlamaIndex Workflows calls version 2 (`shape.py`).

Data that the shape has no field for is written under keys called `umbel`; `reading.py` is the inverse.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...orchestration.model.plan import Plan, StepPlan
from ...orchestration.model.work_item import Scope
from ...orchestration.snapshots.saved import RunSnapshot, SavedItem, SavedScope, SavedSlot, SavedWaiter
from .event_texts import FORMAT, RELEASE, EventTexts, with_digest
from .shape import VERSION


def written(snapshot: RunSnapshot, plan: Plan, state: Mapping[str, Any], texts: EventTexts) -> dict[str, Any]:
    """A snapshot as JSON.

    Args:
        snapshot: The snapshot.
        plan: The plan of its run.
        state: Its state, as written by the state store.
        texts: Writes events.

    Raises:
        ValueError: The serializer cannot write an event.
    """
    return with_digest(_Writer(snapshot, plan, texts).body() | {"state": dict(state)})


class _Writer:
    def __init__(self, snapshot: RunSnapshot, plan: Plan, texts: EventTexts) -> None:
        self.snapshot, self.plan, self.texts = snapshot, plan, texts
        self.workers: dict[str, dict[str, Any]] = {
            step.name: {
                "queue": [],
                "in_progress": [],
                "collected_events": {},
                "static_collect_events": [],
                "collected_waiters": [],
            }
            for step in plan.steps
        }

        paths = [*(item.scope for item in snapshot.items), *(scope.parent for scope in snapshot.scopes)]
        self.openers = {found: opener for path in paths for found, opener, _ in Scope(path).levels()}
        self.inside: Counter[str] = Counter(path[-1] for item in snapshot.items if (path := _ids(item.scope)))
        for scope in snapshot.scopes:
            if path := _ids(scope.parent):
                self.inside[path[-1]] += len(scope.joins) - len(scope.fired)

    def body(self) -> dict[str, Any]:
        snapshot = self.snapshot
        waiting = {saved.waiter.work_id: saved for saved in snapshot.waiters}
        for item in snapshot.items:
            self._item(item, waiting.get(item.work_id) if item.suspended else None)
        for buffer in snapshot.buffers:
            worker = self.workers[buffer.step]
            texts = worker["collected_events"].setdefault(buffer.buffer_id, [])
            texts.extend(map(self.texts.write, buffer.members))
            if buffer.due_at is not None:
                worker.setdefault("umbel", {}).setdefault("complete_by", {})[buffer.buffer_id] = _seconds(buffer.due_at)
        for slot in snapshot.slots:
            self._slot(slot)
        released: dict[str, Any] = {}
        for scope in snapshot.scopes:
            released |= self._releases(scope)
        return {
            "version": VERSION,
            "is_running": snapshot.goes_on,
            "workers": self.workers,
            "stream_seq": 0,
            "work_item_seq": 0,
            "streams": {scope.scope_id: self._stream(scope) for scope in snapshot.scopes},
            "collection_release_states": released,
            "elapsed_alive": snapshot.spent_seconds,
            "umbel": {
                "format": FORMAT,
                "workflow": snapshot.workflow,
                "status": snapshot.status,
                "inbox": [self.texts.write(event) for event in snapshot.inbox],
            },
        }

    def _item(self, item: SavedItem, waiting: SavedWaiter | None) -> None:
        worker = self.workers[item.step]
        for waiter_id, answer in item.answers.items():
            entry = self._waiter_entry(item, waiter_id, "")
            entry["resolved_event"] = None if answer is None else self.texts.write(answer)
            worker["collected_waiters"].append(entry | {"umbel": {"answered": True}})
        if waiting is None:
            worker["in_progress" if item.running else "queue"].append(self._attempt(item))
            return
        waiter = waiting.waiter
        entry = self._waiter_entry(item, waiter.waiter_id, waiter.event_type)
        entry["has_requirements"] = bool(waiter.requirements)
        entry["umbel"] = {
            "requirements": waiter.requirements,
            "subclasses": waiter.subclasses,
            "timeout_at": _seconds(waiting.due_at),
            "attempt": self._attempt(item),
        }
        worker["collected_waiters"].append(entry)

    def _waiter_entry(self, item: SavedItem, waiter_id: str, event_type: str) -> dict[str, Any]:
        attempt = self._inputs(item)
        return attempt | {
            "waiter_id": waiter_id,
            "waiting_for_event": event_type,
            "has_requirements": False,
            "resolved_event": None,
        }

    def _inputs(self, item: SavedItem) -> dict[str, Any]:
        """A work item's events, its position in fan-outs, and its id."""
        texts = [self.texts.write(event) for event in item.events]
        step, release = self.plan.by_name[item.step], None
        if step.kind == "collect":
            collected = item.work_id if item.fan_in is None else item.fan_in  # a group is read as a large one
            release = {
                "binding_id": self._binding(self.openers.get(collected, ""), step),
                "stream_id": collected,
                "events": texts,
                "output_scope_path": _ids(item.scope),
            }
        bound = {str(number): text for number, text in enumerate(texts)}
        return {
            "event": self.texts.write(RELEASE) if release is not None else texts[-1],
            "bound_events": bound if step.kind == "all_of" else None,
            "scope_path": _ids(item.scope),
            "collection_release_payload": release,
            "work_item_id": item.work_id,
        }

    def _attempt(self, item: SavedItem) -> dict[str, Any]:
        counts: dict[str, int] = {}
        for packed in item.recoveries:
            for handler, n in (json.loads(packed) if packed else {}).items():
                counts[handler] = max(n, counts.get(handler, 0))
        more = {
            "event_name": item.event_name,
            "recoveries": list(item.recoveries),
            "resumptions": item.resumptions,
            "sent": list(item.sent),
            "calls": dict(item.calls),
            "taken": {name: [self.texts.write(event) for event in members] for name, members in item.taken.items()},
        }
        return self._inputs(item) | {
            "attempts": item.failures,
            "first_attempt_at": _seconds(item.first_attempt_at),
            "last_exception": None if item.last_error is None else json.loads(item.last_error),
            "last_failed_at": _seconds(item.last_failed_at),
            "recovery_counts": counts,
            "not_before": _seconds(item.due_at),
            "umbel": {key: value for key, value in more.items() if value},
        }

    def _slot(self, slot: SavedSlot) -> None:
        worker = self.workers[slot.step]
        worker["static_collect_events"].append(self.texts.write(slot.event))
        about: dict[str, Any] = {
            "scope_path": _ids(slot.scope),
            "accepted_as": slot.accepted_as,
            "recoveries": slot.recoveries,
        }
        if slot.due_at is not None:
            about["complete_by"] = _seconds(slot.due_at)
        worker.setdefault("umbel", {}).setdefault("slots", []).append(about)

    @staticmethod
    def _binding(source: str, step: StepPlan) -> str:
        amount = "All" if step.take is None else f"Take({step.take})"
        return f"{source}->{step.name}:{','.join(step.accepts)}:{amount}:nearest"

    def _stream(self, scope: SavedScope) -> dict[str, Any]:
        source = self.openers.get(scope.scope_id, "")
        return {
            "stream_id": scope.scope_id,
            "source_step": source,
            "scope_path": _ids(scope.parent),
            "open_work_items": self.inside[scope.scope_id],
            "accepting_binding_ids": [self._binding(source, self.plan.by_name[step]) for _, step in scope.joins],
            "umbel": {"recoveries": scope.recoveries},
        }

    def _releases(self, scope: SavedScope) -> dict[str, Any]:
        source = self.openers.get(scope.scope_id, "")
        found: dict[str, Any] = {}
        for _, step in scope.joins:
            binding = self._binding(source, self.plan.by_name[step])
            released = step in scope.fired
            buffer = () if released else scope.members.get(step, ())
            if buffer or released:
                found[f"{scope.scope_id}:{binding}"] = {
                    "binding_id": binding,
                    "stream_id": scope.scope_id,
                    "buffer": [self.texts.write(event) for event in buffer],
                    "released": released,
                }
        return found


def _ids(path: str) -> list[str]:
    """The fan-outs of a scope path, outermost first."""
    return [scope_id for scope_id, _, _ in reversed(Scope(path).levels())]


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000

"""Snapshots from JSON: the inverse of `writing.py`, also for those of older versions and other libraries.

A snapshot of another library has nothing under `umbel`, and only its common shape is read. A step that waits is
executed again from the start, and finds an answer that has already arrived in the inbox.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from pydantic import BaseModel

from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import ContextSerdeError
from ...orchestration.model.plan import Plan, StepPlan
from ...orchestration.model.waiters import Waiter
from ...orchestration.model.work_item import Scope, derive_id
from ...orchestration.snapshots.saved import (
    RunSnapshot,
    SavedBuffer,
    SavedItem,
    SavedScope,
    SavedSend,
    SavedSlot,
    SavedWaiter,
)
from ..events.exceptions import as_allowed
from .event_texts import FORMAT, RELEASE, EventTexts, digest
from .shape import Attempt, Delivery, Snapshot
from .versions import load_snapshot


def checked(data: Any, workflow: str) -> Snapshot:
    """A snapshot's shape, after checking that it is intact, belongs to this workflow and has a readable version.

    Raises:
        ContextSerdeError: It is damaged, of another workflow, newer than this version of umbel, or not a snapshot.
    """
    shape = load_snapshot(data)
    about = data.get("umbel")
    if about is None:
        if _is_ours(shape):
            raise ContextSerdeError(
                "The snapshot is damaged: umbel wrote it, but its entry 'umbel' is missing, so nothing "
                "says whether the rest is intact."
            )
        return shape
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise ContextSerdeError("The snapshot is damaged: the content of 'umbel' is not what umbel writes there.")
    if about["format"] > FORMAT:
        raise ContextSerdeError(
            f"The snapshot was written by a newer umbel (format {about['format']}); this one reads up to {FORMAT}. "
            "Update umbel here."
        )
    if about.get("workflow") != workflow:
        raise ContextSerdeError(
            f"The snapshot was taken of a run of workflow {about.get('workflow')!r}, not of {workflow!r}. Load it "
            "with that workflow; a renamed workflow keeps its old name with workflow_name=…"
        )
    if about.get("digest") != digest(data):
        raise ContextSerdeError(
            "The snapshot is damaged: its content does not match its digest. It was truncated, edited, or went "
            "through a store that does not keep JSON exactly as it is."
        )
    return shape


def read(shape: Snapshot, plan: Plan, texts: EventTexts) -> RunSnapshot:
    """The live state that a snapshot holds, without its state store.

    Raises:
        ContextSerdeError: It has work for a step that the workflow does not have, an event that cannot be read, or a
            work item in a fan-out that it does not contain.
    """
    if not shape.is_running:
        return RunSnapshot(workflow=plan.workflow, status="completed")
    return _Reader(shape, plan, texts).snapshot()


def _is_ours(shape: Snapshot) -> bool:
    """Whether umbel has added something to any part of it."""
    parts: list[BaseModel] = [*shape.workers.values(), *shape.streams.values()]
    for worker in shape.workers.values():
        parts += [*worker.queue, *worker.in_progress, *worker.collected_waiters]
    return any(_about(part) for part in parts)


def _about(part: BaseModel) -> dict[str, Any]:
    """What umbel added to a part."""
    added: dict[str, Any] = (part.model_extra or {}).get("umbel", {})
    return added


class _Reader:
    def __init__(self, shape: Snapshot, plan: Plan, texts: EventTexts) -> None:
        self.shape, self.plan, self.texts = shape, plan, texts
        self.items: list[SavedItem] = []
        self.waiters: list[SavedWaiter] = []
        self.inbox: list[Envelope] = []
        self.numbers = count()

    def snapshot(self) -> RunSnapshot:
        for name in self.shape.workers:
            self._worker(name)
        early = _about(self.shape).get("inbox", ())
        return RunSnapshot(
            workflow=self.plan.workflow,
            status=_about(self.shape).get("status", "running"),
            items=tuple(self.items),
            waiters=tuple(self.waiters),
            scopes=tuple(self._scopes()),
            slots=tuple(slot for name in self.shape.workers for slot in self._slots(name)),
            buffers=tuple(buffer for name in self.shape.workers for buffer in self._buffers(name)),
            inbox=(*self.inbox, *(self.texts.read(text, "the inbox") for text in early)),
            sends=tuple(map(self._sent, self.shape.deliveries)),
            spent_seconds=self.shape.elapsed_alive,
        )

    # -- work items ------------------------------------------------------------------------------------------------

    def _worker(self, name: str) -> None:
        worker = self.shape.workers[name]
        attempts = [*worker.in_progress, *worker.queue]
        if attempts or worker.collected_waiters:
            self._step(name)
        answers: dict[str, dict[str, Envelope | None]] = {}
        for waiter in worker.collected_waiters:
            about = _about(waiter)
            if about.get("answered"):
                answer = None if waiter.resolved_event is None else self._event(waiter.resolved_event, name)
                answers.setdefault(waiter.work_item_id or "", {})[waiter.waiter_id] = answer
            elif waiter.resolved_event is not None:
                # Another library names its waiters differently: the inbox is where a new waiter looks first.
                self.inbox.append(self._event(waiter.resolved_event, name))
        for attempt in attempts:
            self.items.append(self._item(name, attempt, answers))
        for waiter in worker.collected_waiters:
            about = _about(waiter)
            if "attempt" in about:
                attempt = Attempt.model_validate(about["attempt"])
                item = replace(self._item(name, attempt, answers), suspended=True)
                self.items.append(item)
                self.texts.check(waiter.waiting_for_event)
                condition = Waiter(
                    item.work_id,
                    waiter.waiter_id,
                    name,
                    waiter.waiting_for_event,
                    about["requirements"],
                    about["subclasses"],
                )
                self.waiters.append(SavedWaiter(waiter=condition, due_at=_ms(about["timeout_at"])))
            elif not about.get("answered") and waiter.resolved_event is None:
                self.items.append(self._item(name, Attempt.model_validate(waiter.model_dump()), answers))

    def _sent(self, delivery: Delivery) -> SavedSend:
        if delivery.step_id is not None:
            self._step(delivery.step_id)
        event = self._event(delivery.event, delivery.step_id or "any")
        return SavedSend(event, delivery.step_id, self._path(delivery.scope_path), delivery.recovery_counts)

    def _step(self, name: str) -> StepPlan:
        step = self.plan.by_name.get(name)
        if step is None:
            raise ContextSerdeError(
                f"The snapshot has unfinished work for step {name!r}, which workflow {self.plan.workflow!r} does not "
                f"have. Its steps: {', '.join(self.plan.by_name)}. Keep a step of this name until that work is done."
            )
        return step

    def _event(self, text: str, step: str) -> Envelope:
        return self.texts.read(text, f"step {step!r}")

    def _item(self, name: str, attempt: Attempt, answers: Mapping[str, Mapping[str, Envelope | None]]) -> SavedItem:
        step, about = self._step(name), _about(attempt)
        work_id = attempt.work_item_id or f"restored-{next(self.numbers)}"
        release = attempt.collection_release_payload
        if release is not None:
            texts = release.events
        elif step.kind == "all_of":
            texts = list((attempt.bound_events or {}).values())
            if len(texts) != len(step.accepts):
                raise ContextSerdeError(
                    f"The snapshot is damaged: work of step {name!r} has {len(texts)} events, but the step takes "
                    f"{len(step.accepts)}."
                )
        else:
            texts = [attempt.event]
        events = tuple(self._event(text, name) for text in texts)
        recoveries = about.get("recoveries") or [_packed(attempt.recovery_counts)] * max(1, len(events))
        error = attempt.last_exception
        return SavedItem(
            work_id=work_id,
            step=name,
            events=events,
            fan_in=release.stream_id if release is not None else None,
            event_name=about.get("event_name") or (events[-1].type if events else RELEASE.type),
            scope=self._path(attempt.scope_path),
            recoveries=tuple(recoveries if step.kind == "all_of" else recoveries[:1]),
            due_at=_ms(attempt.not_before),
            failures=attempt.attempts,
            resumptions=about.get("resumptions", 0),
            first_attempt_at=_ms(attempt.first_attempt_at),
            last_failed_at=_ms(attempt.last_failed_at),
            last_error=None if error is None else json.dumps(as_allowed(error)).encode(),
            answers=answers.get(work_id, {}),
            sent=tuple(about.get("sent", ())),
            calls=about.get("calls", {}),
            taken={
                key: tuple(self._event(text, name) for text in members)
                for key, members in about.get("taken", {}).items()
            },
        )

    # -- fan-outs and buffers --------------------------------------------------------------------------------------

    def _path(self, ids: Sequence[str]) -> str:
        scope = Scope()
        for scope_id in ids:
            stream = self.shape.streams.get(scope_id)
            if stream is None:
                raise ContextSerdeError(
                    f"The snapshot is damaged: it has work inside the fan-out {scope_id!r}, which is not in it."
                )
            scope = scope.enter(scope_id, stream.source_step)
        return scope.path

    def _scopes(self) -> Iterator[SavedScope]:
        gathered: dict[str, dict[str, Any]] = {}
        for state in self.shape.collection_release_states.values():
            target = state.binding_id.partition("->")[2].partition(":")[0]
            gathered.setdefault(state.stream_id, {})[target] = state
        for stream in sorted(self.shape.streams.values(), key=lambda each: len(each.scope_path)):
            states = gathered.get(stream.stream_id, {})
            joins = self._step(stream.source_step).collected_by
            yield SavedScope(
                scope_id=stream.stream_id,
                parent=self._path(stream.scope_path),
                joins=tuple((derive_id(stream.stream_id, "restored", step), step) for step in joins),
                fired=tuple(step for step in joins if step in states and states[step].released),
                recoveries=_about(stream).get("recoveries", ""),
                members={
                    step: tuple(self._event(text, step) for text in states[step].buffer)
                    for step in joins
                    if step in states and states[step].buffer
                },
            )

    def _slots(self, name: str) -> Iterator[SavedSlot]:
        worker = self.shape.workers[name]
        abouts: Sequence[Mapping[str, Any]] = _about(worker).get("slots", ())
        for number, text in enumerate(worker.static_collect_events):
            event, about = self._event(text, name), abouts[number] if abouts else {}
            accepted_as = about.get("accepted_as") or self._step(name).slot_of(event)
            if accepted_as is None:
                raise ContextSerdeError(f"The snapshot holds a {event.type} for step {name!r}, which does not take it.")
            yield SavedSlot(
                step=name,
                scope=self._path(about.get("scope_path", ())),
                accepted_as=accepted_as,
                event=event,
                recoveries=about.get("recoveries", ""),
                due_at=_ms(about.get("complete_by")),
            )

    def _buffers(self, name: str) -> Iterator[SavedBuffer]:
        worker = self.shape.workers[name]
        due: Mapping[str, float] = _about(worker).get("complete_by", {})
        for buffer_id, texts in worker.collected_events.items():
            due_at = _ms(due.get(buffer_id))
            by_type: dict[str, list[Envelope]] = {}
            for text in texts:
                event = self._event(text, name)
                by_type.setdefault(event.type, []).append(event)
            for members in by_type.values():
                step = self._step(name).name
                yield SavedBuffer(step=step, buffer_id=buffer_id, members=tuple(members), due_at=due_at)


def _packed(recovery_counts: Mapping[str, int]) -> str:
    return json.dumps(recovery_counts, sort_keys=True, separators=(",", ":")) if recovery_counts else ""


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)

"""Runs and workflows as JSON for the console page. Only shapes: reading is in `orchestration`."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from starlette.responses import Response

from ...orchestration.inspection.endings import failure_of, result_of, traceback_of, why_not_completed
from ...orchestration.inspection.run_detail import JournalEntry, Question, RunDetail, StateValue
from ...orchestration.inspection.run_rows import ListedRun
from ...orchestration.inspection.timeline import Execution, executions
from ...orchestration.model.envelope import INPUT_REQUIRED, STOP, Envelope
from ...orchestration.model.tagged_json import fields_of, untagged
from ...orchestration.sessions.names import session_of
from ...orchestration.store.replies import RunRecord
from ...tasks.drawing.representation_resources import model_schema
from ...tasks.events.event import Event, HumanResponseEvent, StartEvent, StopEvent, event_name, loaded_event
from ...tasks.steps.discovery import steps_of
from ...tasks.workflow.definition import WorkflowDefinition

#: Maximum bytes of a result or question that are shown; of larger ones only the size.
SHOWN_BYTES = 256 << 10
#: Maximum executions in a timeline.
EXECUTIONS = 1_000
#: Maximum characters of an error in a timeline.
ERROR_CHARACTERS = 500


class ConsoleJSON(Response):
    """JSON in ASCII, so that a lone surrogate does no harm."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes."""
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


# -- lists -----------------------------------------------------------------------------------------------------------


def page_of_runs(
    runs: Iterable[ListedRun], counts: dict[str, int] | None, cursor: str | None, routes: dict[str, str]
) -> dict[str, Any]:
    """A page of the list.

    Args:
        runs: The runs the caller may see.
        counts: Number of runs by status; None if the caller may not see them.
        cursor: For the next page.
        routes: Workflow name -> the name it is served under here.
    """
    return {"runs": [_row(run, routes) for run in runs], "counts": counts, "cursor": cursor}


def _row(run: ListedRun, routes: dict[str, str]) -> dict[str, Any]:
    return asdict(run) | {"route": routes.get(run.workflow), "began_with": event_fields(run.began_with)}


def workflow_shape(name: str, workflow: WorkflowDefinition, *, has_worker: bool) -> dict[str, Any]:
    """A workflow without its graph.

    Args:
        name: The name it is served under.
        workflow: The workflow.
        has_worker: Whether a live worker has its code.
    """
    cls = type(workflow)
    start = workflow.start_event_class
    return {
        "name": name,
        "workflow_name": workflow.workflow_name,
        "description": inspect.cleandoc(cls.__doc__) if cls.__doc__ else "",
        "steps": len(steps_of(type(workflow))),
        "start": {"type": start.__name__, "schema": model_schema(start)},
        "trouble": None if has_worker else _NO_WORKER,
    }


_NO_WORKER = (
    "No live worker serves this workflow. Its runs are stored and continue once one does: start `umbel worker`."
)


# -- one run ---------------------------------------------------------------------------------------------------------


def run_shape(
    found: RunDetail, classes: Mapping[str, type[Event]], route: str | None, trouble: str | None
) -> dict[str, Any]:
    """A run without its events and its graph.

    Args:
        found: The run.
        classes: The event classes that may be sent to it, by wire name; empty if its code is not loaded here.
        route: The name its workflow is served under here.
        trouble: Why it does not continue; None if nothing is wrong.
    """
    record = found.record
    past = executions((entry.at, entry.kind, entry.data) for entry in found.journal)
    timeline = [*past, *_at_work(found)]
    return {
        "run_id": record.run_id,
        "workflow": record.workflow,
        "route": route,
        "status": record.status,
        "created_at": record.created_at,
        "ended_at": record.ended_at,
        "now": found.now,
        "parent": record.parent,
        "session": session_of(record.run_id) if record.run_id != session_of(record.run_id) else None,
        "waits_for_admission": record.waits_for_admission,
        "is_queued": record.is_queued,
        "is_asleep": _is_asleep(found),
        "head": found.head,
        "began_with": event_fields(found.began_with),
        "result": _result(record),
        "error": why_not_completed(record),
        "failure": _failure(record),
        "traceback": traceback_of(record),
        "trouble": trouble,
        "steps": _steps(found, past),
        "is_partial": found.work_left_out or found.journal_left_out > 0,
        "questions": [*_waiting(found.questions, classes), *_returned(found, classes)],
        "timeline": [execution_shape(each) for each in timeline[-EXECUTIONS:]],
        "timeline_left_out": max(0, len(timeline) - EXECUTIONS) + found.journal_left_out,
        "state": [_state_value(each) for each in found.state if each.key],  # the empty key names the state's class
        "state_left_out": found.state_left_out,
        "sendable": _sendable(classes),
    }


def _is_asleep(found: RunDetail) -> bool:
    record = found.record
    is_begun = not (record.waits_for_admission or record.is_queued)
    return record.status == "running" and is_begun and record.live == found.asleep


def _at_work(found: RunDetail) -> Iterable[Execution]:
    for each in found.at_work:
        yield Execution(each.step, each.work_id, each.attempt, each.owner, each.since, found.record.ended_at, "running")


def _failure(record: RunRecord) -> dict[str, Any] | None:
    found = failure_of(record)
    return None if found is None else dict(zip(("step", "attempts", "error"), found, strict=True))


def _result(record: RunRecord) -> dict[str, Any] | None:
    if record.status != "completed" or record.ending is None:
        return None
    event = "" if record.ending.type == STOP else record.ending.type.rpartition(".")[2]
    return {"event": event} | shown_value(record.ending.payload, lambda: result_of(record))


def shown_value(payload: bytes, value: Callable[[], Any]) -> dict[str, Any]:
    """The value of a payload, or None with `why_not` if it is too large."""
    if len(payload) > SHOWN_BYTES:
        return {"value": None, "size": len(payload), "why_not": "too large to show"}
    try:
        return {"value": value(), "size": len(payload), "why_not": None}
    except RecursionError:
        return {"value": None, "size": len(payload), "why_not": "nested too deeply to show"}


def stored_values(state: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Values of `ctx.store` by their keys, as they are stored."""
    # The empty key names the state's class.
    return [{"key": key} | shown_value(stored, partial(_stored, stored)) for key, stored in state.items() if key]


def _stored(payload: bytes) -> Any:
    return untagged(json.loads(payload))


_FAILURES = ("retrying", "failed", "rescued", "lost", "hung")


def _steps(found: RunDetail, past: Sequence[Execution]) -> list[dict[str, Any]]:
    done = Counter(each.step for each in past if each.outcome == "done")
    failures = Counter(each.step for each in past if each.outcome in _FAILURES)
    rescued = Counter(each.step for each in past if each.outcome == "rescued")
    took: dict[str, list[int]] = {}
    for each in past:
        if each.ended_at is not None:
            took.setdefault(each.step, []).append(each.ended_at - each.started_at)
    names = dict.fromkeys([*(step.name for step in found.plan.steps), *found.steps])
    nothing = dict.fromkeys(("queued", "ready", "running", "retrying", "waiting", "parked", "failed"), 0)
    return [
        {"name": name, "num_workers": found.plan.by_name[name].num_workers if name in found.plan.by_name else None}
        | (asdict(found.steps[name]) if name in found.steps else nothing)
        | {"done": done[name], "failures": failures[name], "rescued": rescued[name]}
        | {"longest_ms": max(took.get(name, [0])), "total_ms": sum(took.get(name, []))}
        for name in names
    ]


def execution_shape(each: Execution) -> dict[str, Any]:
    """One execution of the timeline."""
    error = None if each.error is None else each.error.removeprefix("builtins.")[:ERROR_CHARACTERS]
    return {
        "step": each.step,
        "work_id": each.work_id,
        "attempt": each.attempt,
        "worker": each.worker,
        "process": each.process,
        "started_at": each.started_at,
        "ended_at": each.ended_at,
        "outcome": "interrupted" if each.outcome == "running" and each.ended_at is not None else each.outcome,
        "event": None if each.event is None else each.event.rpartition(".")[2],
        "error": error,
        "traceback": each.traceback,
    }


def _state_value(each: StateValue) -> dict[str, Any]:
    if each.json is None:
        return {"key": each.key, "value": None, "size": each.size, "why_not": "too large to show"}
    stored = each.json
    return {"key": each.key} | shown_value(stored, lambda: untagged(json.loads(stored)))


# -- questions -------------------------------------------------------------------------------------------------------


def _waiting(questions: Iterable[Question], classes: Mapping[str, type[Event]]) -> Iterable[dict[str, Any]]:
    """Questions of steps that are waiting in `wait_for_event`."""
    for question in questions:
        waiter = question.waiter
        # `wait_for_event` may name a class that is in no signature; nothing is imported to find it.
        answer = classes.get(waiter.event_type) or loaded_event(waiter.event_type)
        yield {
            "id": f"{waiter.work_id}|{waiter.waiter_id}",
            "step": waiter.step,
            "asked": event_fields(question.asked),
            "answers": [_event_class(answer) if answer else _unknown_class(waiter.event_type)],
            "requirements": waiter.requirements,
            "until": question.until,
        }


def _returned(found: RunDetail, classes: Mapping[str, type[Event]]) -> Iterable[dict[str, Any]]:
    """Questions that a step returned, whose answer goes to another step.

    Nothing in Redis links such a question to its answer. The oldest open one counts as answered by the next event that
    was sent from outside and reached a step.
    """
    if found.record.status != "running":
        return
    taken = {name for step in found.plan.steps for name in step.accepts}
    answers = [cls for name, cls in classes.items() if issubclass(cls, HumanResponseEvent) and name in taken]
    if not answers:
        return
    for number, (step, asked) in enumerate(_open(found.journal)):
        yield {
            "id": f"returned|{found.record.run_id}|{number}",
            "step": step,
            "asked": event_fields(asked),
            "answers": [_event_class(cls) for cls in answers],
            "requirements": {},
            "until": None,
        }


def _open(journal: Iterable[JournalEntry]) -> list[tuple[str, Envelope]]:
    left: list[tuple[str, Envelope]] = []
    for entry in journal:
        if entry.kind == "commit" and entry.data.get("out") in ("returned", "fannedout"):
            left += [(entry.data["s"], asked) for asked in _published(entry)]
        elif entry.kind == "send" and left and any(each["o"] == "deliver" for each in entry.commands):
            left.pop(0)
    return left


def _published(entry: JournalEntry) -> Iterable[Envelope]:
    for command in entry.commands:
        if command["o"] == "publish":
            event = Envelope.from_bytes(command["d"].encode("utf-8", "surrogateescape"))
            if event.is_a(INPUT_REQUIRED):
                yield event


def event_fields(event: Envelope | None) -> dict[str, Any] | None:
    """An event's type and fields, with the dynamic fields beside the declared ones."""
    if event is None:
        return None

    return {"type": event.type.rpartition(".")[2]} | shown_value(event.payload, lambda: fields_of(event.value()))


def _sendable(classes: Mapping[str, type[Event]]) -> list[dict[str, Any]]:
    """The events that may be sent to a run: all but start and stop events; answers to questions first."""
    own = [cls for cls in classes.values() if not issubclass(cls, StartEvent | StopEvent)]
    own.sort(key=lambda cls: (not issubclass(cls, HumanResponseEvent), cls.__name__))
    return [_event_class(cls) for cls in own]


def _event_class(cls: type[Event]) -> dict[str, Any]:
    return {"type": cls.__name__, "qualified_name": event_name(cls), "schema": model_schema(cls)}


def _unknown_class(name: str) -> dict[str, Any]:
    return {"type": name.rpartition(".")[2], "qualified_name": name, "schema": None}

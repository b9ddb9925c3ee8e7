"""The shapes that travel over HTTP, and what of a run stands in them.

Names, keys and null rules are those of LlamaIndex' workflow server, so that its clients understand this one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from ...orchestration.engine.sessions import handler_id_of
from ...orchestration.model.envelope import FAILED, STOP, TIMED_OUT, Envelope
from ...orchestration.model.tagged_json import TAG_BYTES, untagged
from ...orchestration.store.replies import RunRecord
from ...tasks.drawing.representation import WorkflowGraph

__all__ = [
    "CancelHandlerResponse",
    "EventEnvelopeWithMetadata",
    "HandlerData",
    "HandlersListResponse",
    "HealthResponse",
    "SendEventResponse",
    "Status",
    "WorkflowEventsListResponse",
    "WorkflowGraphResponse",
    "WorkflowSchemaResponse",
    "WorkflowsListResponse",
    "is_status_completed",
]

#: How a handler stands. A run that timed out has failed.
Status = Literal["running", "completed", "failed", "cancelled"]

#: The statuses of runs that each status of a handler stands for.
RUN_STATUSES: dict[Status, tuple[str, ...]] = {
    "running": ("running",),
    "completed": ("completed",),
    "failed": ("failed", "timed_out"),
    "cancelled": ("cancelled",),
}
_STATUS_OF: dict[str, Status] = {run: status for status, runs in RUN_STATUSES.items() for run in runs}


def is_status_completed(status: Status) -> bool:
    """Whether the handler's run has ended, in whatever way."""
    return status != "running"


class EventEnvelopeWithMetadata(BaseModel):
    """An event as clients read it.

    Attributes:
        value: Its fields; dynamic data below `_data`, the result of a StopEvent below `result`.
        qualified_name: Its class with the module; None where the client did not want it.
        type: Its class.
        types: The event classes between its class and Event, nearest first; None when there are none.
    """

    value: dict[str, Any]
    qualified_name: str | None
    type: str
    types: list[str] | None


class HandlerData(BaseModel):
    """How a handler stands.

    Attributes:
        handler_id: Its name; the run's id unless a client has named it.
        workflow_name: The name it is served under.
        run_id: The run it is at.
        error: Why it failed; of a running one, that no worker is there to execute it. Else None.
        result: The event that completed the run.
        status: running, completed, failed or cancelled.
        started_at, updated_at, completed_at: ISO 8601 in UTC.
    """

    handler_id: str
    workflow_name: str
    run_id: str | None
    error: str | None
    result: EventEnvelopeWithMetadata | None
    status: Status
    started_at: str
    updated_at: str | None
    completed_at: str | None


class HandlersListResponse(BaseModel):
    """What there is."""

    handlers: list[HandlerData]


class HealthResponse(BaseModel):
    """Whether the server is there."""

    status: Literal["healthy", "unhealthy"]


class WorkflowsListResponse(BaseModel):
    """The names that workflows are served under."""

    workflows: list[str]


class SendEventResponse(BaseModel):
    """The event is in the run."""

    status: Literal["sent"]


class CancelHandlerResponse(BaseModel):
    """What became of the handler."""

    status: Literal["deleted", "cancelled"]


class WorkflowSchemaResponse(BaseModel):
    """JSON schemas of what a workflow takes and gives."""

    start: dict[str, Any]
    stop: dict[str, Any]


class WorkflowEventsListResponse(BaseModel):
    """JSON schemas of a workflow's events."""

    events: list[dict[str, Any]]


class WorkflowGraphResponse(BaseModel):
    """A workflow as a graph."""

    graph: WorkflowGraph


# -- events ------------------------------------------------------------------------------------------------------------

#: Raw in JSON these are text, but clients that split lines as Python's `splitlines` does would take them for line ends.
_LINE_ENDS = {"\u0085".encode(): b"\\u0085", "\u2028".encode(): b"\\u2028", "\u2029".encode(): b"\\u2029"}


def short_name(name: str) -> str:
    """A class as `type` and `types` spell it: `shop.flows.Asked` is `Asked`."""
    return name.rpartition(".")[2]


def qualified(name: str) -> str:
    """A class as `qualified_name` spells it: a wire name, but built-in events where users import them from."""
    root, _, last = name.partition(".")
    return f"umbel.events.{last}" if root == "umbel" and "." not in last else name


def event_json(envelope: Envelope, *, with_qualified_name: bool = True) -> bytes:
    """An event as one line of JSON, in the bytes that `EventEnvelopeWithMetadata` would make."""
    about = {
        "qualified_name": qualified(envelope.type) if with_qualified_name else None,
        "type": short_name(envelope.type),
        "types": [short_name(parent) for parent in envelope.parents] or None,
    }
    line = b'{"value":' + _plain_payload(envelope) + b"," + _compact(about)[1:]
    for raw, escaped in _LINE_ENDS.items():
        line = line.replace(raw, escaped)
    return line


def event_data(envelope: Envelope) -> EventEnvelopeWithMetadata:
    """An event as a value."""
    return EventEnvelopeWithMetadata.model_validate_json(event_json(envelope))


def _plain_payload(envelope: Envelope) -> bytes:
    """The payload as `model_dump(mode="json")` shows it: values of classes without the tags they travel with."""
    if TAG_BYTES not in envelope.payload:
        return envelope.payload
    value = envelope.value()
    for name in ("_data", "result"):
        if name in value:
            value[name] = untagged(value[name])
    return _compact(value)


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


# -- handlers ----------------------------------------------------------------------------------------------------------


def handler_data(record: RunRecord, workflow_name: str, *, no_worker: str | None = None) -> HandlerData:
    """A run as its handler.

    Args:
        record: The run.
        workflow_name: What its workflow is served as.
        no_worker: Why nothing happens to it, if it goes on.
    """
    status = _STATUS_OF[record.status]
    started, ended = _iso(record.created_at), _iso(record.ended_at)
    return HandlerData(
        handler_id=handler_id_of(record.run_id),
        workflow_name=workflow_name,
        run_id=record.run_id,
        error=no_worker if status == "running" else _error(record),
        result=event_data(record.ending) if status == "completed" and record.ending is not None else None,
        status=status,
        started_at=started or "",
        updated_at=ended or started,
        completed_at=ended,
    )


def plain_result(record: RunRecord) -> Any:
    """The result alone, as `/results/{id}` gives it: of a plain StopEvent what it carries, else the event's fields."""
    if record.status != "completed" or record.ending is None:
        return None
    value = event_data(record.ending).value
    return value.get("result") if record.ending.type == STOP else value


def _error(record: RunRecord) -> str | None:
    ending = record.ending
    if ending is None or record.status not in ("failed", "timed_out"):
        return None
    value = ending.value()
    if ending.type == TIMED_OUT:
        return f"Workflow timed out after {value['timeout']}s"
    if ending.type == FAILED:
        return str(value["exception"]["exception_message"])
    return f"ended as {record.status} by {short_name(ending.type)}"


def _iso(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat()

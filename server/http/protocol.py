"""The request and response bodies of the HTTP API, and how they are made from a run.

Names, keys and null rules are those of LlamaIndex's workflow server, so that its clients work with this one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from ...orchestration.model.envelope import EXACT_BYTES, FAILED, STOP, TIMED_OUT, Envelope
from ...orchestration.model.tagged_json import TAG_BYTES, untagged
from ...orchestration.sessions.names import session_of
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

#: Status of a handler. A run that timed out has failed. Only a run that was started with a `session_id`, which clients
#: of the original protocol do not know, is `queued`.
Status = Literal["running", "completed", "failed", "cancelled", "queued"]

#: The statuses of runs for each status of a handler.
RUN_STATUSES_OF: dict[Status, tuple[str, ...]] = {
    "running": ("running",),
    "completed": ("completed",),
    "failed": ("failed", "timed_out"),
    "cancelled": ("cancelled",),
}
_STATUS_OF: dict[str, Status] = {run: status for status, runs in RUN_STATUSES_OF.items() for run in runs}


def is_status_completed(status: Status) -> bool:
    """Whether the handler's run has ended, successfully or not."""
    return status not in ("running", "queued")


class EventEnvelopeWithMetadata(BaseModel):
    """An event in the form in which clients read it.

    Attributes:
        value: Its fields; dynamic data under `_data`, the result of a StopEvent under `result`.
        qualified_name: Its class with the module; None if the client did not ask for it.
        type: Its class.
        types: The event classes between its class and Event, nearest first; None if there are none.
    """

    value: dict[str, Any]
    qualified_name: str | None
    type: str
    types: list[str] | None


class HandlerData(BaseModel):
    """A handler's status.

    Attributes:
        handler_id: Its id; the run's id unless the client chose one.
        workflow_name: The name the workflow is served under.
        run_id: Its current run.
        error: Why it failed; for a running one, that no live worker can execute it. Else None.
        result: The event that completed the run.
        result_unreadable: Whether the stored event is damaged; `result` is then None.
        status: running, completed, failed or cancelled; queued is a run of a session that waits for its turn.
        started_at, updated_at, completed_at: ISO 8601 in UTC.
    """

    handler_id: str
    workflow_name: str
    run_id: str | None
    error: str | None
    result: EventEnvelopeWithMetadata | None
    result_unreadable: bool = False
    status: Status
    started_at: str
    updated_at: str | None
    completed_at: str | None


class HandlersListResponse(BaseModel):
    """The handlers."""

    handlers: list[HandlerData]


class HealthResponse(BaseModel):
    """Whether the server is healthy."""

    status: Literal["healthy", "unhealthy"]


class WorkflowsListResponse(BaseModel):
    """The names that workflows are served under."""

    workflows: list[str]


class SendEventResponse(BaseModel):
    """The event was sent."""

    status: Literal["sent"]


class CancelHandlerResponse(BaseModel):
    """The outcome of a cancellation."""

    status: Literal["deleted", "cancelled"]


class WorkflowSchemaResponse(BaseModel):
    """JSON schemas of a workflow's start and stop events."""

    start: dict[str, Any]
    stop: dict[str, Any]


class WorkflowEventsListResponse(BaseModel):
    """JSON schemas of a workflow's events."""

    events: list[dict[str, Any]]


class WorkflowGraphResponse(BaseModel):
    """A workflow as a graph."""

    graph: WorkflowGraph


# -- events ------------------------------------------------------------------------------------------------------------

#: Valid unescaped in JSON, but clients that split lines like Python's `splitlines` would take them for line ends.
_LINE_ENDS = {"\u0085".encode(): b"\\u0085", "\u2028".encode(): b"\\u2028", "\u2029".encode(): b"\\u2029"}


def short_name(name: str) -> str:
    """A class as in `type` and `types`: `shop.flows.Asked` is `Asked`."""
    return name.rpartition(".")[2]


def qualified(name: str) -> str:
    """A class as in `qualified_name`: its wire name, but built-in events by the module users import them from."""
    root, _, last = name.partition(".")
    return f"umbel.events.{last}" if root == "umbel" and "." not in last else name


def event_json(envelope: Envelope, *, with_qualified_name: bool = True) -> bytes:
    """An event as one line of JSON, the same bytes as `EventEnvelopeWithMetadata` produces."""
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
    """An event as a model."""
    return EventEnvelopeWithMetadata.model_validate_json(event_json(envelope))


def _plain_payload(envelope: Envelope) -> bytes:
    """The payload as in `model_dump(mode="json")`: values of classes without their tags."""
    if TAG_BYTES not in envelope.payload and EXACT_BYTES not in envelope.payload:
        return envelope.payload
    value = envelope.value()
    for name in ("_data", "result"):
        if name in value:
            value[name] = untagged(value[name])
    return _compact(value)


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


# -- handlers ----------------------------------------------------------------------------------------------------------


def handler_data(
    record: RunRecord, workflow_name: str, *, no_worker: str | None = None, of_session: bool = False
) -> HandlerData:
    """A run as its handler.

    Args:
        record: The run.
        workflow_name: The name its workflow is served under.
        no_worker: For a running run: the error text if no live worker can execute it.
        of_session: The client uses sessions.
    """
    status = "queued" if of_session and record.is_queued else _STATUS_OF[record.status]
    started, ended = iso(record.created_at), iso(record.ended_at)
    result, unreadable = None, False
    if status == "completed" and record.ending is not None:
        try:
            result = event_data(record.ending)
        except ValueError:
            unreadable = True
    return HandlerData(
        handler_id=session_of(record.run_id),
        workflow_name=workflow_name,
        run_id=record.run_id,
        error=_error(record) if is_status_completed(status) else no_worker,
        result=result,
        result_unreadable=unreadable,
        status=status,
        started_at=started or "",
        updated_at=ended or started,
        completed_at=ended,
    )


def plain_result(record: RunRecord) -> Any:
    """The result as in `/results/{id}`: the result of a plain StopEvent, else the event's fields."""
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


def iso(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat()

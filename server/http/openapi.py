"""The OpenAPI document, made from the routes and their docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.routing import BaseRoute, Route

_JSON = "application/json"
_HANDLER = {"$ref": "#/components/schemas/Handler"}
_TEXT = {"type": "string"}
_BOOLEAN = {"type": "boolean", "default": False}
_DETAIL = {"type": "object", "properties": {"detail": _TEXT}, "required": ["detail"]}

_RUN_BODY = {
    "type": "object",
    "properties": {
        "start_event": {
            "description": "Fields of the start event, an envelope {type, value}, or JSON text of either.",
            "oneOf": [{"type": "object"}, _TEXT],
        },
        "handler_id": {**_TEXT, "description": "Name of the handler whose next run this is; its state is kept."},
        "session_id": {**_TEXT, "description": "Name of the session whose next run this is; instead of handler_id."},
        "when_busy": {
            "type": "string",
            "enum": ["queue", "reject", "interrupt", "rollback", "join"],
            "default": "queue",
            "description": "What to do while another run of the session is running.",
        },
        "kwargs": {"type": "object", "description": "Fields of the start event, if start_event is absent."},
        "context": {"type": "object", "description": "A snapshot to start from, if the server accepts it."},
    },
}
_GOING_ON = {
    "point": {
        "description": "The number of a change, or 'before STEP', 'after STEP', 'before STEP#2'.",
        "oneOf": [{"type": "integer"}, _TEXT],
    },
    "state": {
        "description": "Changes of ctx.store: top-level keys (null deletes one), or a JSON Patch.",
        "oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}],
    },
    "events": {
        "type": "object",
        "additionalProperties": {"type": "object"},
        "description": "Fields to replace of the event that a step, or a work item, is executed with.",
    },
    "timeout_seconds": {"type": "number", "description": "Time limit from now; by default that of the run."},
}
_FORK_BODY = {
    "type": "object",
    "properties": _GOING_ON
    | {
        "run_id": {**_TEXT, "description": "The id of the new run; by default a generated one."},
        "session_id": {**_TEXT, "description": "Name of a new session whose first run this is; instead of run_id."},
        "reuse": {
            "type": "string",
            "enum": ["none", "recorded"],
            "default": "none",
            "description": "recorded: a step whose event and state are the same is not executed, its outcome reused.",
        },
        "answers": {
            "type": "string",
            "enum": ["ask", "recorded"],
            "default": "ask",
            "description": "recorded: waits are answered with the recorded answers.",
        },
        "children": {
            "type": "string",
            "enum": ["keep", "fork"],
            "default": "keep",
            "description": "fork: also fork the child runs that steps wait for.",
        },
        "keep_idempotency_keys": {**_BOOLEAN, "description": "Steps keep the ctx.idempotency_key of the original run."},
        "code": {
            "type": "string",
            "enum": ["current", "recorded"],
            "default": "current",
            "description": "Whether to use the workflow as it is now, or the plan that the run started with.",
        },
    },
    "required": ["point"],
}
_REWIND_BODY = {
    "type": "object",
    "properties": _GOING_ON
    | {"stop_running": {"type": "boolean", "default": False, "description": "Also if the run is running."}},
    "required": ["point"],
}
_EVENT_BODY = {
    "type": "object",
    "properties": {
        "event": {
            "description": "An envelope {type, value}, or JSON text of one.",
            "oneOf": [{"type": "object"}, _TEXT],
        },
        "step": {**_TEXT, "description": "Send the event only to this step."},
    },
    "required": ["event"],
}


def _parameter(name: str, schema: dict[str, Any], about: str, *, required: bool = False) -> dict[str, Any]:
    return {"in": "query", "name": name, "required": required, "schema": schema, "description": about}


_LIST = {"type": "array", "items": _TEXT}
_HUNDRED = {"type": "integer", "default": 100, "maximum": 1000}
_STREAM = [
    _parameter("sse", {"type": "boolean", "default": True}, "Server-sent events; else one JSON object per line."),
    _parameter("include_internal", _BOOLEAN, "Include step state changes and other internal events."),
    _parameter("include_qualified_name", {"type": "boolean", "default": True}, "Fill qualified_name."),
    _parameter(
        "after_sequence",
        {"oneOf": [{"type": "integer"}, {"type": "string", "enum": ["now"]}], "default": "now"},
        "Begin after this number; -1 for the beginning. The header Last-Event-ID takes precedence.",
    ),
    _parameter("event_type", _LIST, "Only events of these classes or their subclasses; repeatable."),
]
_START = [
    _parameter("Idempotency-Key", _TEXT, "Identifies this start: repeating it returns the same run.") | {"in": "header"}
]
_QUERIES: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("/workflows/{name}/run", "post"): _START,
    ("/workflows/{name}/run-nowait", "post"): _START,
    ("/handlers", "get"): [
        _parameter("status", _LIST, "running, completed, failed, cancelled; repeatable."),
        _parameter("workflow_name", _LIST, "Repeatable."),
        _parameter("limit", {"type": "integer", "default": 1000, "maximum": 1000}, "Maximum number, newest first."),
        _parameter("cursor", _TEXT, "From the Link header of the previous page."),
    ],
    ("/sessions", "get"): [
        _parameter("prefix", _TEXT, "Only sessions whose names begin with this."),
        _parameter("status", {"type": "string", "enum": ["busy", "idle"]}, "busy: a run is running."),
        _parameter("limit", _HUNDRED, "Maximum number, latest first."),
        _parameter("cursor", _TEXT, "From the Link header of the previous page."),
    ],
    ("/sessions/{session_id}/runs", "get"): [_parameter("limit", _HUNDRED, "Maximum number, newest first.")],
    ("/sessions/{session_id}/state", "get"): [
        _parameter("version", {"type": "integer"}, "By default the current one.")
    ],
    ("/sessions/{session_id}/runs/{run_id}/events", "get"): _STREAM,
    ("/runs/{run_id}/history", "get"): [
        _parameter("step", _TEXT, "Only changes of this step."),
        _parameter("kind", _LIST, "start, claim, commit, state, send, wake, end, rewind, …; repeatable."),
        _parameter("after", {"type": "integer", "default": 0}, "Only changes with a higher number."),
        _parameter("newest_first", _BOOLEAN, "Newest changes first."),
        _parameter("limit", _HUNDRED, "Maximum number."),
    ],
    ("/runs/{run_id}/diff", "get"): [
        _parameter(
            "before", _TEXT, "A point: its number, 'before STEP', 'after STEP', 'before STEP#2'.", required=True
        ),
        _parameter("after", _TEXT, "The other point.", required=True),
    ],
    ("/handlers/{handler_id}/cancel", "post"): [_parameter("purge", _BOOLEAN, "Also delete the handler.")],
    ("/events/{handler_id}", "get"): _STREAM,
}
_BODIES = {
    ("/workflows/{name}/run", "post"): _RUN_BODY,
    ("/workflows/{name}/run-nowait", "post"): _RUN_BODY,
    ("/events/{handler_id}", "post"): _EVENT_BODY,
    ("/sessions/{session_id}/runs/{run_id}/events", "post"): _EVENT_BODY,
    ("/runs/{run_id}/fork", "post"): _FORK_BODY,
    ("/runs/{run_id}/rewind", "post"): _REWIND_BODY,
    ("/sessions/{session_id}/fork", "post"): {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "at": {"type": "integer", "description": "A version; by default the current one."},
        },
        "required": ["name"],
    },
    ("/sessions/{session_id}/rewind", "post"): {
        "type": "object",
        "properties": {"to": {"type": "integer", "description": "A version."}},
        "required": ["to"],
    },
}
_DAMAGED = ("The stored result cannot be decoded", _DETAIL)
_OF_HANDLER = {
    200: ("Completed", _HANDLER),
    202: ("Running", _HANDLER),
    422: _DAMAGED,
    500: ("Failed or cancelled", _HANDLER),
}
_NOTHING_LEFT = ("The run has ended, and there are no more events", None)
_SESSION_BUSY = ("A run of the session is running or waiting", _DETAIL)
_NOT_KEPT = ("The run's journal no longer has what is needed to rebuild this point", _DETAIL)
_NOT_REBUILT = ("The run's journal is damaged", _DETAIL)
_NO_WAY_ON = ("No run can continue from this point, or an edit does not fit it; the detail says why", _DETAIL)
_ANSWERS: dict[tuple[str, str], dict[int, tuple[str, Any]]] = {
    ("/workflows/{name}/run", "post"): {
        200: ("The run completed", _HANDLER),
        409: ("The handler's run has not ended, or the session does not take another one", _DETAIL),
        413: ("The body or the event is too large", _DETAIL),
        429: ("As many runs as are allowed wait in the session", _DETAIL),
        500: ("The run failed, timed out or was cancelled", _HANDLER),
        503: ("No live worker serves the workflow; the run is stored", _HANDLER),
    },
    ("/workflows/{name}/run-nowait", "post"): {
        200: ("The run is started", _HANDLER),
        409: ("The handler's run has not ended, or the session does not take another one", _DETAIL),
        413: ("The body or the event is too large", _DETAIL),
        429: ("As many runs as are allowed wait in the session", _DETAIL),
    },
    ("/handlers", "get"): {200: ("The handlers", {"$ref": "#/components/schemas/HandlersList"})},
    ("/handlers/{handler_id}", "get"): _OF_HANDLER,
    ("/results/{handler_id}", "get"): {
        200: ("Completed", {"type": "object"}),
        202: ("Running", {"type": "object"}),
        422: _DAMAGED,
        500: ("Failed or cancelled", {"type": "object"}),
    },
    ("/events/{handler_id}", "get"): {204: _NOTHING_LEFT},
    ("/events/{handler_id}", "post"): {
        200: ("The event was sent", {"type": "object", "properties": {"status": _TEXT}}),
        409: ("The run has ended", _DETAIL),
    },
    ("/sessions/{session_id}/runs/{run_id}", "get"): _OF_HANDLER,
    ("/sessions/{session_id}/runs/{run_id}/events", "get"): {204: _NOTHING_LEFT},
    ("/sessions/{session_id}/runs/{run_id}/events", "post"): {409: ("The run has ended", _DETAIL)},
    ("/sessions/{session_id}", "delete"): {409: _SESSION_BUSY},
    ("/sessions/{session_id}/rewind", "post"): {409: _SESSION_BUSY},
    ("/sessions/{session_id}/fork", "post"): {409: ("The name is taken", _DETAIL)},
    **{
        (f"/runs/{{run_id}}/{path}", "get"): {410: _NOT_KEPT, 422: _NOT_REBUILT}
        for path in (
            "history/{point}",
            "history/{point}/state",
            "history/{point}/work",
            "history/{point}/snapshot",
            "diff",
            "verify",
        )
    },
    ("/runs/{run_id}/fork", "post"): {409: _NO_WAY_ON, 422: _NOT_REBUILT},
    ("/runs/{run_id}/rewind", "post"): {409: _NO_WAY_ON, 422: _NOT_REBUILT},
    ("/health", "get"): {503: ("Stopped, or not configured", {"type": "object"})},
}

_COMPONENTS = {
    "EventEnvelopeWithMetadata": {
        "type": "object",
        "properties": {
            "value": {"type": "object"},
            "types": {"type": "array", "items": _TEXT, "nullable": True},
            "type": _TEXT,
            "qualified_name": {**_TEXT, "nullable": True},
        },
        "required": ["value", "type"],
    },
    "Handler": {
        "type": "object",
        "properties": {
            "handler_id": _TEXT,
            "workflow_name": _TEXT,
            "run_id": {**_TEXT, "nullable": True},
            "status": {"type": "string", "enum": ["running", "completed", "failed", "cancelled", "queued"]},
            "started_at": {"type": "string", "format": "date-time"},
            "updated_at": {"type": "string", "format": "date-time", "nullable": True},
            "completed_at": {"type": "string", "format": "date-time", "nullable": True},
            "error": {**_TEXT, "nullable": True},
            "result": {
                "description": "The event that completed the run",
                "oneOf": [{"$ref": "#/components/schemas/EventEnvelopeWithMetadata"}, {"type": "null"}],
            },
            "result_unreadable": {"type": "boolean", "description": "The event that completed the run is damaged"},
        },
        "required": ["handler_id", "workflow_name", "status", "started_at"],
    },
    "HandlersList": {
        "type": "object",
        "properties": {"handlers": {"type": "array", "items": _HANDLER}},
        "required": ["handlers"],
    },
}


def openapi_document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The document of these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, Route) and route.include_in_schema:
            for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
                paths.setdefault(route.path, {})[method.lower()] = _operation(route, method.lower())
    return {
        "openapi": "3.0.0",
        "info": {"title": "Workflows API", "version": _version()},
        "components": {"schemas": _COMPONENTS},
        "paths": paths,
    }


def _operation(route: Route, method: str) -> dict[str, Any]:
    at = (route.path, method)
    about = inspect.getdoc(route.endpoint) or route.name
    operation: dict[str, Any] = {"summary": about.splitlines()[0], "operationId": f"{route.name}_{method}"}
    path = [{"in": "path", "name": name, "required": True, "schema": _TEXT} for name in sorted(route.param_convertors)]
    if parameters := [*path, *_QUERIES.get(at, [])]:
        operation["parameters"] = parameters
    if at in _BODIES:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": _BODIES[at]}}}
    answers = {200: ("Success", {"type": "object"})} | _ANSWERS.get(at, {})
    if at in _BODIES:
        answers[400] = ("Invalid request; the detail says why", _DETAIL)
    if path:
        answers[404] = ("Workflow, handler, session, run or point not found", _DETAIL)
    answers |= {401: ("Authentication required", _DETAIL), 403: ("Not allowed", _DETAIL)}
    operation["responses"] = {
        str(status): {"description": text}
        | ({} if schema is None else {"content": {_content_type(at, status): {"schema": schema}}})
        for status, (text, schema) in sorted(answers.items())
    }
    return operation


def _content_type(at: tuple[str, str], status: int) -> str:
    return "text/event-stream" if _QUERIES.get(at) is _STREAM and status == 200 else _JSON


def _version() -> str:
    try:
        return version("umbel")
    except PackageNotFoundError:
        return "0"

"""How a run ended, read from its record alone. No user class is needed, so any command can show it."""

from __future__ import annotations

from typing import Any

from ..model.envelope import FAILED, STOP, TIMED_OUT
from ..model.tagged_json import untagged
from ..store.replies import RunRecord

#: Maximum characters of an exception that are shown.
_EXCEPTION_CHARACTERS = 1000


def result_of(record: RunRecord) -> Any:
    """The result of a completed run as JSON: the result of a plain StopEvent, the fields of a subclass."""
    if record.ending is None:
        return None
    value = record.ending.value()
    if record.ending.type == STOP:
        return untagged(value.get("result"))
    fields = {name: untagged(field) for name, field in value.items() if name != "_data"}
    return fields | untagged(value.get("_data") or {})


def why_not_completed(record: RunRecord) -> str | None:
    """One sentence on how a run ended without completing; None if it completed or is running."""
    run = f"Run {record.run_id!r}"
    if record.status == "cancelled":
        return f"{run} was cancelled."
    value = record.ending.value() if record.ending is not None else {}
    if record.ending is not None and record.ending.type == TIMED_OUT:
        active = ", ".join(value.get("active_steps") or ())
        at_work = f"At work were: {active}" if active else "No step was at work"
        return f"{run} did not end within its timeout of {value.get('timeout')} s. {at_work}."
    if record.ending is not None and record.ending.type == FAILED:
        error = exception_text(value.get("exception") or {})
        where = f" in step {value['step_name']!r}" if value.get("step_name") else ""
        attempt = f" on attempt {value['attempts']}" if value.get("attempts") else ""
        return f"{run} failed{where}{attempt}: {error}."
    return None if record.status in ("running", "completed") else f"{run} ended as {record.status}."


def failure_of(record: RunRecord) -> tuple[str, int, str] | None:
    """A failed run's step (empty if there is none), attempts and exception; None if the run did not fail."""
    if record.ending is None or record.ending.type != FAILED:
        return None
    value = record.ending.value()
    return value.get("step_name") or "", value.get("attempts") or 0, exception_text(value.get("exception") or {})


def traceback_of(record: RunRecord) -> str | None:
    """The traceback of the failure that ended the run; None if it did not fail, or an older release recorded it."""
    if record.ending is None or record.ending.type != FAILED:
        return None
    return (record.ending.value().get("exception") or {}).get("exception_traceback") or None


def exception_text(encoded: dict[str, Any]) -> str:
    """An exception as Python shows it: `CardDeclined('limit reached')`."""
    name = str(encoded.get("exception_type") or "an unknown error").rpartition(".")[2]
    arguments = encoded.get("exception_args")
    if not isinstance(arguments, list) or not arguments:  # pydantic's errors have a text and no arguments
        arguments = [encoded["exception_message"]] if encoded.get("exception_message") else []
    text = f"{name}({', '.join(map(repr, arguments))})"
    return text if len(text) <= _EXCEPTION_CHARACTERS else f"{text[:_EXCEPTION_CHARACTERS]}…"

"""Commands in short form, so that a table of expectations fits on a screen."""

from __future__ import annotations

from collections.abc import Iterable

from umbel.orchestration.model.commands import (
    Absorb,
    Command,
    Deliver,
    Done,
    Fail,
    Finish,
    Join,
    KeepEvent,
    KeepInInbox,
    OpenScope,
    Publish,
    Resume,
    Retry,
    Splice,
    Suspend,
    TakeFromInbox,
    Trace,
)


def brief(commands: Iterable[Command]) -> list[str]:
    """Return one to three words per command, in order."""
    return [_word(command) for command in commands]


def _word(command: Command) -> str:
    match command:
        case KeepEvent(uses=uses):
            return f"keep for {uses}"
        case Deliver(step=step):
            return f"deliver {step.name}"
        case OpenScope(joins=joins):
            return " ".join(["open", *(step.name for _, step in joins)])
        case Splice(step=step, size=size):
            return f"splice {step.name} x{size}"
        case Absorb(scope_id=scope_id, step=step_name):
            return f"absorb {scope_id}/{step_name}"
        case Join(step=step, slot=slot):
            return f"join {step.name}.{slot}"
        case Publish(event=event):
            return f"publish {event.type}"
        case Trace(state=state):
            return state
        case KeepInInbox():
            return "inbox"
        case TakeFromInbox(event_id=event_id):
            return f"take {event_id}"
        case Resume(waiter_id=waiter_id):
            return f"resume {waiter_id}"
        case Suspend(waiter_id=waiter_id):
            return f"suspend {waiter_id}"
        case Done():
            return "done"
        case Retry(delay_ms=delay):
            return f"retry {delay}"
        case Fail():
            return "fail"
        case Finish(status=status):
            return f"finish {status}"

"""What `Workflow(verbose=True)` prints: what each step does, as it happens, in the process that executes it.

The lines match those of LlamaIndex Workflows; the number after a step's name is its slot among `num_workers`. They go
to the logger `umbel.verbose` if it is enabled for DEBUG or INFO, else to standard output.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from ...orchestration.model import envelope as names
from ...orchestration.model.commands import Command, Deliver, Splice
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.work_item import Awaiting, Failed, FannedOut, Grouped, Outcome, Returned, Suspended, Work
from ...orchestration.store.replies import Applied
from ..context.emissions import Emissions

logger = logging.getLogger("umbel.verbose")

#: Characters of an event's content in a line.
_CONTENT = 200


def is_verbose(work: Work) -> bool:
    """Whether the run was started with `verbose=True`."""
    return _is_verbose(work.options)


@lru_cache(1024)
def _is_verbose(options: str) -> bool:
    return bool(json.loads(options or "{}").get("verbose"))


class VerboseEmissions(Emissions):
    """Prints each event that a step sends or publishes before its end."""

    def send(self, event: Envelope, target: str | None) -> str:
        """See `Emissions.send`."""
        emit_id = super().send(event, target)
        _say(f"[tick] add: {_summary(event)}" + (f" -> {target}" if target else ""))
        return emit_id

    def publish(self, event: Envelope) -> None:
        """See `Emissions.publish`."""
        super().publish(event)
        _say(f"[tick] publish: {_summary(event)}")


def log_started(work: Work) -> None:
    """An attempt begins."""
    _say(f"{_who(work)} started from {_short(work.event_name)}")


def log_outcome(work: Work, outcome: Outcome) -> None:
    """An attempt has ended. Printed before the outcome is recorded, so before anybody sees the run's end."""
    _say(f"{_who(work)} {_said(outcome)}")
    if isinstance(outcome, Returned) and outcome.ends and outcome.event is not None and outcome.event.is_a(names.STOP):
        _say(f"[result] {_summary(outcome.event)}")


def log_enqueued(commands: Sequence[Command], applied: Applied) -> None:
    """An attempt's outcome is recorded: print which work it enqueued.

    Args:
        commands: The commands that were applied.
        applied: The reply, which lists the work that became ready.
    """
    ready = {dispatch.work_id: dispatch.step for dispatch in applied.dispatches}
    if applied.continued is not None:
        ready[applied.continued.work_id] = applied.continued.step
    for step, count in _enqueued(commands, ready).items():
        _say(f"[{step}] enqueued (waiting for capacity)" + (f" x {count}" if count > 1 else ""))


def _said(outcome: Outcome) -> str:
    match outcome:
        case Returned(None) | FannedOut(()):
            return "complete with no result"
        case Returned(Envelope() as event):
            return f"complete with {_short(event.type)}"
        case FannedOut(events):
            counts = Counter(_short(event.type) for event in events)
            return f"complete with {', '.join(f'{name} x {count}' for name, count in counts.items())}"
        case Suspended(waiter):
            return f"waiting for {_short(waiter.event_type)}"
        case Awaiting(children):
            counts = Counter(_short(child.workflow) for child in children)
            return f"waiting for {', '.join(f'{name} x {count}' for name, count in counts.items())}"
        case Grouped(groups):
            return f"gathered {len(groups)} groups"
        case Failed():
            encoded = json.loads(outcome.error)
            error = f"{_short(encoded['exception_type'])}: {encoded['exception_message']}"
            delay = outcome.retry_delay_seconds
            return f"failed with {error}" + ("" if delay is None else f" (next attempt in {delay:g}s)")
    raise TypeError(f"no such outcome: {outcome!r}")


def _enqueued(commands: Sequence[Command], ready: Mapping[str, str]) -> Counter[str]:
    """How many new work items of each step have to wait for a slot."""
    delivered = [command for command in commands if isinstance(command, Deliver)]
    waiting = Counter(each.step.name for each in delivered if each.work_id not in ready)
    # The ids of staged work are not known here: ready work that was not delivered individually is staged work.
    staged = Counter(ready.values()) - Counter(each.step.name for each in delivered if each.work_id in ready)
    for command in commands:
        if isinstance(command, Splice):
            waiting[command.step.name] += max(0, command.size - staged[command.step.name])
    return +waiting


def _who(work: Work) -> str:
    return f"[{work.step}:{work.slot}]"


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _summary(event: Envelope) -> str:
    """An event's class and content, truncated if long."""
    fields = event.value()
    fields |= fields.pop("_data", {})
    content = ", ".join(f"{name}={field!r}" for name, field in fields.items())
    return f"{_short(event.type)}({content if len(content) <= _CONTENT else content[: _CONTENT - 1] + '…'})"


def _say(line: str) -> None:
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug(line, extra={"action": "verbose"})
    elif logger.isEnabledFor(logging.INFO):
        logger.info(line, extra={"action": "verbose"})
    else:
        print(line, flush=True)

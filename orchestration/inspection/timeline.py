"""A run's journal as a timeline: the executions of steps with worker, times and outcome. Pure; see `Store.journal`.

A journal entry is written when an execution ends; running ones are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

ExecutionOutcome = Literal["done", "retrying", "failed", "rescued", "waiting", "lost", "released", "hung", "running"]

#: Outcome -> words shown to users.
OUTCOMES: dict[ExecutionOutcome, str] = {
    "done": "done",
    "retrying": "failed, retried",
    "failed": "failed",
    "rescued": "failed, handled by a @catch_error step",
    "waiting": "waiting for an event",
    "lost": "lost: its process died or was disconnected",
    "released": "released before it began",
    "hung": "exceeded its time limit",
    "running": "running",
}


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of one step.

    Attributes:
        step: The step.
        work_id: The work item; its attempts share it.
        attempt: From 1.
        owner: The process, as `worker|host|pid|incarnation`.
        started_at: When it was claimed, in Redis ms.
        ended_at: When it was committed or given up; None while it runs.
        outcome: `rescued` by a `@catch_error` step, `waiting` for an event, `lost` with its process, `released` by it,
            `hung` beyond its time limit.
        event: Wire name of the event it returned.
        error: The exception it failed with.
        retry_delay_seconds: Until the next attempt.
        traceback: Where it failed; None if it did not, or is an entry of an older release.
    """

    step: str
    work_id: str
    attempt: int
    owner: str
    started_at: int
    ended_at: int | None
    outcome: ExecutionOutcome
    event: str | None = None
    error: str | None = None
    retry_delay_seconds: float | None = None
    traceback: str | None = None

    @property
    def worker(self) -> str:
        """The worker's name."""
        return self.owner.split("|")[0]

    @property
    def process(self) -> str:
        """`host:pid` of the process that executed it."""
        parts = self.owner.split("|")
        return f"{parts[1]}:{parts[2]}" if len(parts) > 2 else ""

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it runs."""
        return None if self.ended_at is None else max(0, self.ended_at - self.started_at) / 1000


def executions(journal: Iterable[tuple[int, str, Any]]) -> list[Execution]:
    """All executions that have ended, in the order of their starts."""
    found: list[Execution] = []
    attempts: dict[str, int] = {}
    for at, kind, data in journal:
        for each in ended(at, kind, data, attempts):
            found.append(each)
            if each.outcome in ("retrying", "lost"):
                attempts[each.work_id] = each.attempt + 1
    return sorted(found, key=lambda each: (each.started_at, each.ended_at))


def ended(at: int, kind: str, data: Any, attempts: dict[str, int]) -> list[Execution]:
    """The executions whose end one journal entry records; none for an entry of another kind.

    Args:
        at: The entry's time, in Redis ms.
        kind: The entry's kind.
        data: The entry's data.
        attempts: The attempt that each work item has reached, for entries that do not contain it.
    """
    if kind == "commit":
        return [_committed(at, data)]
    if kind in ("lost", "released"):
        return [_given_up(at, each, "lost" if kind == "lost" else "released") for each in data]
    if kind == "deadline":
        attempt = attempts.get(data["w"], 1)
        return [Execution(data["s"], data["w"], attempt, data["o"], data["ca"], at, "hung")]
    return []


def _committed(at: int, data: dict[str, Any]) -> Execution:
    outcome: ExecutionOutcome = "done"
    if data["out"] == "failed":
        outcome = "retrying" if "delay" in data else "rescued" if _is_rescued(data) else "failed"
    elif data["out"] in ("suspended", "awaiting"):
        outcome = "waiting"
    return Execution(
        step=data["s"],
        work_id=data["w"],
        attempt=data["a"],
        owner=data["o"],
        started_at=data.get("ca", at),  # entries of attempts that were retried immediately may lack it
        ended_at=at,
        outcome=outcome,
        event=data.get("event"),
        error=data.get("error"),
        retry_delay_seconds=data.get("delay"),
        traceback=data.get("tb"),
    )


def _is_rescued(data: dict[str, Any]) -> bool:
    """Whether a failure led to another step instead of the end of the run."""
    return any(group["s"] for group in data.get("led_to") or ())


def _given_up(at: int, data: dict[str, Any], outcome: ExecutionOutcome) -> Execution:
    # The counter in the entry already includes a loss, but never a release.
    attempt = data["a"] + (0 if outcome == "lost" else 1)
    return Execution(data["s"], data["w"], attempt, data["o"], data["ca"], at, outcome)


def duration(seconds: float | None) -> str:
    """A duration, rounded to a useful precision; empty for None."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"

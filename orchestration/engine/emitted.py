"""What an attempt passes to the engine besides its outcome, and what it gets back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..model.commands import Command
from ..model.envelope import Envelope
from ..store.replies import Applied, Refusal

#: An event that was sent: its identity, the event, and the only step it is for, if the sender named one.
Sent = tuple[str, Envelope, str | None]


@dataclass(frozen=True, slots=True)
class Emitted:
    """What an attempt has emitted besides its outcome, for the commit to carry.

    Attributes:
        publishes: Events for the run's stream.
        sends: Events for other steps.
        batches: How many early flushes must have arrived.
        exchanges: How many state writes and collect_events calls Redis has answered.
        taken: Logical names of completed collect_events sets, which are deleted with the work item.
        state: Top-level keys of the state that are written with the outcome -> JSON.
    """

    publishes: Sequence[Command] = ()
    sends: Sequence[Sent] = ()
    batches: int = 0
    exchanges: int = 0
    taken: Iterable[str] = ()
    state: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of a commit.

    Attributes:
        reply: What was applied, or why nothing was.
        commands: The commands of the commit, for verbose logs.
    """

    reply: Applied | Refusal
    commands: Sequence[Command] = ()

"""Recorded outcomes of a run's work items, stored with a fork that reuses them where nothing has changed.

A recorded outcome is reused if the work item has the same id (so it follows in the same way from the same work), its
events have the same bytes, and each key of `ctx.store` that the recorded attempt read holds the same value as then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from ...model.envelope import Envelope
from ...model.work_item import FannedOut, Outcome, Returned
from ...state.redis_hash import Change
from ...store.verbs import Store


def digest(value: bytes | None) -> str:
    """Digest of a value as it is stored; empty for None. Scripts compute the same."""
    return "" if value is None else hashlib.sha1(value).hexdigest()


def digest_of_events(digests: Iterable[str], *, gathered: bool) -> str:
    """Digest of a work item's events. The order in which a fan-in collects its events is random, so it does not count.

    Args:
        digests: The digest of each event.
        gathered: The events were collected by a fan-in.
    """
    return digest("".join(sorted(digests) if gathered else digests).encode())


def digest_of_state(digests: Mapping[str, str]) -> str:
    """Digest of the whole state, from the digests of its values."""
    return digest("".join(f"{key}\0{each}\0" for key, each in sorted(digests.items()) if each).encode())


@dataclass(frozen=True, slots=True)
class Recorded:
    """The outcome of a work item.

    Attributes:
        seq: The journal entry that recorded it.
        events: Digest of its events.
        read: Key of the state that it read -> digest of its value; or one digest of the whole state.
        returned: What it returned.
        as_list: It returned a list.
        published: What it wrote to the stream.
        sent: Each event that it sent, and the only step it was for; None for any step.
        change: What it wrote to the state, if anything.
    """

    seq: int
    events: str
    read: Mapping[str, str] | str
    returned: tuple[Envelope, ...]
    as_list: bool
    published: tuple[Envelope, ...] = ()
    sent: tuple[tuple[Envelope, str | None], ...] = ()
    change: Change | None = None

    @property
    def outcome(self) -> Outcome:
        """The outcome to commit."""
        return FannedOut(self.returned) if self.as_list else Returned(self.returned[0] if self.returned else None)

    def to_bytes(self) -> bytes:
        """Serialize for Redis."""
        change = self.change
        written = change and (change.how, dict(change.set), list(change.delete), change.replace)
        returned, published = (list(map(Envelope.to_bytes, each)) for each in (self.returned, self.published))
        sent = [(event.to_bytes(), target) for event, target in self.sent]
        about = (self.seq, self.events, self.read, returned, self.as_list, published, sent, written)
        packed: bytes = msgpack.packb(about)
        return packed

    @staticmethod
    def from_bytes(data: bytes) -> Recorded:
        """The inverse of `to_bytes`."""
        seq, events, read, returned, as_list, published, sent, written = msgpack.unpackb(data)
        return Recorded(
            seq,
            events,
            read,
            tuple(map(Envelope.from_bytes, returned)),
            as_list,
            tuple(map(Envelope.from_bytes, published)),
            tuple((Envelope.from_bytes(event), target) for event, target in sent),
            written and Change(*written),
        )


@dataclass(frozen=True, slots=True)
class Recordings:
    """What a fork keeps of the outcomes and answers that its origin recorded after the point.

    Attributes:
        outcomes: Work item -> its outcome.
        answers: Work item -> name of a wait -> the event from outside the run that answered it.
    """

    outcomes: Mapping[str, Recorded] = field(default_factory=dict)
    answers: Mapping[str, Mapping[str, Envelope]] = field(default_factory=dict)

    def fields(self) -> dict[str, bytes]:
        """The hash fields in which they are stored with the fork."""
        found = {work_id: recorded.to_bytes() for work_id, recorded in self.outcomes.items()}
        for work_id, answers in self.answers.items():
            packed: bytes = msgpack.packb({name: event.to_bytes() for name, event in answers.items()})
            found[_answers(work_id)] = packed
        return found


async def recorded_of(store: Store, run_id: str, work_id: str) -> tuple[Recorded | None, dict[str, Envelope]]:
    """What a fork keeps of one work item: its recorded outcome and its recorded answers. *Promise:* only reads.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    key = store.locate(run_id)["recorded"]
    outcome, answers = await store.command("read a recorded outcome", "HMGET", key, work_id, _answers(work_id))
    given: dict[str, Any] = msgpack.unpackb(answers) if answers else {}
    return Recorded.from_bytes(outcome) if outcome else None, {
        name: Envelope.from_bytes(event) for name, event in given.items()
    }


def _answers(work_id: str) -> str:
    return f"?{work_id}"

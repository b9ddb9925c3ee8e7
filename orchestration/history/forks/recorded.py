"""Recorded outcomes: what a run has recorded of a work item, kept with a fork that takes it where nothing has changed.

A recorded outcome is taken if the work item has the same id (so it follows in the same way from the same work), its
events have the same bytes, and each key of `ctx.store` that the recorded attempt has read holds what it held then.
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
    """Of a value as it is stored; empty for none. Scripts compute the same."""
    return "" if value is None else hashlib.sha1(value).hexdigest()


def digest_of_events(digests: Iterable[str], *, gathered: bool) -> str:
    """Of the events of a work item. The order in which a fan-in has gathered them is left to chance: it does not count.

    Args:
        digests: Of each event.
        gathered: They were gathered by a fan-in.
    """
    return digest("".join(sorted(digests) if gathered else digests).encode())


def digest_of_state(digests: Mapping[str, str]) -> str:
    """Of the whole state, from those of its values."""
    return digest("".join(f"{key}\0{each}\0" for key, each in sorted(digests.items()) if each).encode())


@dataclass(frozen=True, slots=True)
class Recorded:
    """The outcome of a work item.

    Attributes:
        seq: The entry of the journal that has recorded it.
        events: Digest of its events.
        read: Key of the state that it has read -> digest of what that held; or the digest of the whole state.
        returned: What it returned.
        as_list: It returned a list.
        published: What it wrote to the stream.
        sent: What it sent, and to which step only.
        change: What it wrote to the state, if it did.
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
        """As it is committed."""
        return FannedOut(self.returned) if self.as_list else Returned(self.returned[0] if self.returned else None)

    def to_bytes(self) -> bytes:
        """For Redis."""
        change = self.change
        written = change and (change.how, dict(change.set), list(change.delete), change.replace)
        returned, published = (list(map(Envelope.to_bytes, each)) for each in (self.returned, self.published))
        sent = [(event.to_bytes(), target) for event, target in self.sent]
        about = (self.seq, self.events, self.read, returned, self.as_list, published, sent, written)
        packed: bytes = msgpack.packb(about)
        return packed

    @staticmethod
    def from_bytes(data: bytes) -> Recorded:
        """The inverse."""
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
    """What a fork keeps of what its origin has recorded after the point.

    Attributes:
        outcomes: Work item -> its outcome.
        answers: Work item -> name of a wait -> the event that answered it, from outside of the run.
    """

    outcomes: Mapping[str, Recorded] = field(default_factory=dict)
    answers: Mapping[str, Mapping[str, Envelope]] = field(default_factory=dict)

    def fields(self) -> dict[str, bytes]:
        """As they are stored with the fork."""
        found = {work_id: recorded.to_bytes() for work_id, recorded in self.outcomes.items()}
        for work_id, answers in self.answers.items():
            packed: bytes = msgpack.packb({name: event.to_bytes() for name, event in answers.items()})
            found[_answers(work_id)] = packed
        return found


async def recorded_of(store: Store, run_id: str, work_id: str) -> tuple[Recorded | None, dict[str, Envelope]]:
    """What a fork keeps of one work item: its recorded outcome, and recorded answers. *Promise:* only reads.

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

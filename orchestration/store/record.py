"""The work record: what Redis stores of a work item that has not ended. No other module accesses its stored fields.

Scripts change records (`lua/lib/records.lua`, where the fields are described); Python reads them and makes new ones.
Both sides use the same names for the fields, from the one table there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ..model.commands import Deliver
from ..model.plan import StepPlan
from .scripts import record_fields, unpack

#: Version of the records that this release makes. Version 1 did not record its version and had the same fields.
VERSION = 2

_KEYS = record_fields()
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class WorkRecord(NamedTuple):
    """A work record as it is in Redis; a missing field has its default. Instants are Redis time in ms.

    The fields are those of `lua/lib/records.lua`, under the same names. A field that this version does not
    know, because a newer one wrote it, is left out; scripts keep it.
    """

    step: str = ""
    state: str = ""
    work_id: str = ""
    version: int = 1
    num_workers: int = 0
    queue: str = ""
    priority: int = 0
    time_limit: int | None = None
    slot: int | None = None
    dispatch_no: int = 0
    dispatched_at: int | None = None
    redispatches: int = 0
    failures: int = 0
    losses: int = 0
    charged_losses: int = 0
    suspicion: int = 0
    alone: bool = False
    late: bool = False
    resumptions: int = 0
    token: str = ""
    owner: str = ""
    claim_id: str = ""
    first_attempt_at: int | None = None
    claimed_at: int | None = None
    last_error: bytes | None = None
    last_failed_at: int | None = None
    event_id: str | None = None
    event: bytes | None = None
    event_ids: tuple[str, ...] = ()
    event_name: str = ""
    scope: str = ""
    recoveries: str = ""
    recoveries_each: tuple[str, ...] = ()
    scope_id: str | None = None
    members: int | None = None
    awaits: tuple[str, int] | None = None
    awaited: int | None = None
    next_held: int | None = None
    cancelled: bool = False
    answers: Mapping[str, str | bool] = _NOTHING
    kept: Mapping[str, str] = _NOTHING
    batches: int = 0
    exchanges: int = 0
    exchange_calls: Mapping[str, int] = _NOTHING
    sent_early: bool = False
    calls: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    segments: Mapping[str, int] = _NOTHING

    @property
    def attempt(self) -> int:
        """Number of the attempt that runs or comes next, from 1."""
        return self.failures + self.losses + 1

    @property
    def all_event_ids(self) -> tuple[str, ...]:
        """Its events: one, or one for each slot of a join; none for a fan-in, whose members are in a separate list."""
        return self.event_ids or (() if self.event_id is None else (self.event_id,))


def _payload(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


#: For what msgpack does not tell: payloads travel as text, and an empty Lua table may be read as a list or as a map.
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    word: read
    for read, words in (
        (_payload, ("event", "last_error")),
        (bool, ("alone", "late", "sent_early", "cancelled")),
        (tuple, ("event_ids", "recoveries_each", "awaits", "calls", "taken")),
        (dict, ("answers", "kept", "exchange_calls", "segments")),
    )
    for word in words
}


#: Stored key -> position in the tuple, and the conversion: twice as fast as by name, and every claim reads a record.
_FIELDS = {_KEYS[word]: (place, _CONVERSIONS.get(word)) for place, word in enumerate(WorkRecord._fields)}
_DEFAULTS = tuple(WorkRecord())


def read(stored: Mapping[str, Any]) -> WorkRecord:
    """The record in an unpacked map."""
    found = list(_DEFAULTS)
    for key, value in stored.items():
        if key in _FIELDS:
            place, convert = _FIELDS[key]
            found[place] = value if convert is None else convert(value)
    return WorkRecord._make(found)


def decode(packed: bytes) -> WorkRecord:
    """Decode a record as Redis stores it, packed."""
    return read(unpack(packed))


def new(step: StepPlan, default_queue: str, **fields: Any) -> dict[str, Any]:
    """A record to be stored, as a map for a script.

    Args:
        step: The step that is to execute the work item.
        default_queue: The broker queue, if the step names none.
        **fields: More fields, by their names; None is left out.
    """
    words = {
        "version": VERSION,
        "step": step.name,
        "num_workers": step.num_workers,
        "queue": step.queue or default_queue,
        "priority": step.priority,
        "time_limit": None if step.timeout_seconds is None else round(step.timeout_seconds * 1000),
    }
    return {_KEYS[word]: value for word, value in (words | fields).items() if value is not None}


def delivered(deliver: Deliver) -> dict[str, Any]:
    """The record of a work item that is staged: it waits in the queue of its step."""
    return new(
        deliver.step,
        deliver.queue,
        work_id=deliver.work_id,
        state="queued",
        event_id=deliver.event_id,
        event_ids=deliver.event_ids or None,
        scope_id=None if deliver.members is None else deliver.work_id,
        members=deliver.members,
        event_name=deliver.event_name,
        scope=deliver.scope,
        recoveries=deliver.recoveries,
    )

"""Which work items of a run are to be cancelled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...model.envelope import Envelope
from ...model.waiters import Waiter
from ...store.record import WorkRecord, decode, read
from ...store.replies import pairs, unpack_raw
from ...store.scripts import unpack
from ...store.verbs import Store


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Criteria for work items; all of them must hold.

    Attributes:
        step: The step.
        work_ids: Only these work items; None is all.
        but: A work item to leave out.
        where: Fields that the step's event must have.
        scope_id: A fan-out of which a join has all it takes, and which the work items belong to.
    """

    step: str | None = None
    work_ids: frozenset[str] | None = None
    but: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    scope_id: str | None = None

    def has(self, record: WorkRecord, event: Envelope | None) -> bool:
        """Whether a work item is selected; `event` is its event, if it has one."""
        if self.step is not None and record.step != self.step:
            return False
        if record.work_id == self.but or (self.work_ids is not None and record.work_id not in self.work_ids):
            return False
        around = [each.partition(":")[0] for each in record.scope.split("/")]
        if self.scope_id is not None and self.scope_id not in around:
            return False
        if not self.where:
            return True
        return event is not None and Waiter("", "", "", event.type, dict(self.where)).matches(event)


@dataclass(frozen=True, slots=True)
class LiveWork:
    """A work item that has not ended.

    Attributes:
        record: Its record.
        field: Its field in the queue of its step; None if it has left the queue.
        waits: Ids of its waiters.
        children: Child runs that it waits for.
    """

    record: WorkRecord
    field: str | None = None
    waits: tuple[str, ...] = ()
    children: tuple[str, ...] = ()

    @property
    def is_cancellable(self) -> bool:
        """False if the run has failed with it."""
        return self.record.state != "failed"


async def live_work(store: Store, run_id: str) -> tuple[list[LiveWork], dict[bytes, bytes]]:
    """All unfinished work of a run, and its stored events. The cost grows with the number of both."""
    keys = store.locate(run_id)
    names = ("work", "queue", "waiters", "children", "events")
    work, queue, waiters, children, events = map(
        pairs, await store.batch("look at live work", *(("HGETALL", keys[name]) for name in names))
    )
    waits: dict[str, list[str]] = defaultdict(list)
    for name in waiters:
        work_id, _, waiter_id = name.decode().partition("|")
        waits[work_id].append(waiter_id)
    kids: dict[str, list[str]] = defaultdict(list)
    for name, raw in children.items():
        if b"|" not in name and b"#" not in name:
            kids[unpack_raw(raw)[b"w"].decode()].append(name.decode())
    found = []
    for name, raw in work.items():
        work_id = name.decode()
        record = decode(raw)._replace(work_id=work_id)
        found.append(LiveWork(record, None, tuple(waits[work_id]), tuple(kids[work_id])))
    in_line = ((place, record) for place, record in _queued(queue) if not record.cancelled)
    found.extend(LiveWork(record, place, children=tuple(kids[record.work_id])) for place, record in in_line)
    return found, events


def event_of(record: WorkRecord, events: Mapping[bytes, bytes]) -> Envelope | None:
    """The event of a work item that has exactly one."""
    data = record.event
    if data is None and record.event_id is not None:
        data = events.get(record.event_id.encode())
    return None if data is None else Envelope.from_bytes(data)


def _queued(queue: Mapping[bytes, bytes]) -> Iterator[tuple[str, WorkRecord]]:
    """The records in the queues of all steps, with their fields; a staged segment record by record."""
    for name in queue:
        if not name.endswith(b":t"):
            continue
        step = name[:-2]
        for index in range(int(queue.get(step + b":h", 0)) + 1, int(queue[name]) + 1):
            place = step + b":%d" % index
            entry = unpack(queue[place])
            if "seg" not in entry:
                yield place.decode(), read(entry)
                continue
            for number in range(entry["i"] + 1, entry["n"] + 1):
                member = f"{entry['seg']}#{number}"
                yield member, decode(queue[member.encode()])

"""Snapshots: a run's live state as one value, and a new run made from it.

    take_snapshot(store, run_id) -> RunSnapshot -> restore.begin_from(store, new run id, …)

A snapshot contains what the run needs to continue: unfinished work items, open fan-outs and what their joins have
collected, waiters, collect buffers, the inbox, the state. It does not contain the past: neither stream nor journal. So
its cost depends on the run's live state, not on how long the run has existed. Work that was executing returns to the
queue: what is restored is executed at least once.

A restored run is a new run. It keeps the work items' ids (so that repeated sends are still recognised) under its own
run id. The original is only read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..connection.keys import RunKeys
from ..model.envelope import Envelope
from ..model.errors import RunNotFound
from ..model.waiters import Waiter
from ..store.record import WorkRecord, decode, read
from ..store.replies import ends_of_children, not_found, pairs, unpack_raw
from ..store.scripts import unpack
from ..store.verbs import Store
from .saved import RunSnapshot, SavedBuffer, SavedChild, SavedItem, SavedScope, SavedSlot, SavedWaiter

#: Kinds of time limits for sets of events, see `lua/lib/children.lua`.
OF_SETS = ("join", "buffer")


@dataclass(frozen=True)
class Contents:
    """The contents of a run's keys at one moment.

    Attributes:
        keys: The run's keys, by logical name.
        journal: Id of its last journal entry; empty if there is none.
        timers: Member -> due time (ms). Members lack kind and run: `work id`, `work id|waiter id`, empty for the time
            limit. Those for sets of events keep their kind: `join|buffer` and `buffer|buffer`.
        by_name: Content of each key; hashes and sorted sets as flat lists, as Redis returns them.
    """

    keys: RunKeys
    journal: str
    timers: Mapping[str, int]
    by_name: Mapping[str, list[bytes]]

    def flat(self, name: str) -> dict[bytes, bytes]:
        """The fields of a hash, or the members and scores of a sorted set."""
        return pairs(self.by_name.get(name, ()))

    def snapshot(self) -> RunSnapshot:
        """The run's live state in these contents."""
        return _Reading(self).snapshot()


async def contents(store: Store, run_id: str, keys: RunKeys | None = None) -> Contents:
    """Read all keys that make up a run's live state, at one moment. *Promise:* nothing is written.

    Args:
        store: The deployment.
        run_id: The run.
        keys: Keys to read instead of the run's own.

    Raises:
        RunNotFound: The run id is unknown, or its retention is over.
        StoreUnavailable: Redis did not answer.
    """
    keys = keys or store.locate(run_id)
    while True:
        dynamic = await store.command("list a run's keys", "SMEMBERS", keys["extra"])
        extra = {name.decode().removeprefix(keys.stem): name.decode() for name in dynamic}
        status, *found = await store.verb("snapshot", run_id, keys=keys, extra=extra)
        if status == b"unknown":
            raise RunNotFound(not_found(run_id))
        if status == b"taken":
            journal, timers, *named = found
            due = {_without_run(each.decode(), run_id): int(float(at)) for each, at in pairs(timers).items()}
            by_name = {name.decode(): content for name, content in zip(named[::2], named[1::2], strict=True)}
            return Contents(keys, journal.decode(), due, by_name)


def _without_run(timer: str, run_id: str) -> str:
    kind, _, rest = timer.partition(f"|{run_id}")
    return kind + rest if kind in OF_SETS else rest[1:]


async def take_snapshot(store: Store, run_id: str) -> RunSnapshot:
    """The live state of a run at one moment. *Promise:* the run is only read.

    Raises:
        RunNotFound: The run id is unknown, or its retention is over.
        StoreUnavailable: Redis did not answer.
    """
    found = await contents(store, run_id)
    snapshot = found.snapshot()
    if not snapshot.goes_on:
        return snapshot
    seconds, micros = await store.command("read the clock", "TIME")
    return replace(snapshot, spent_seconds=_spent(found, int(seconds) * 1000 + int(micros) // 1000))


def _spent(found: Contents, now: int) -> float:
    """How many seconds of its time limit a run has used, including those of the runs it was restored from.

    If a run waited for admission or its turn and no longer has a timeout, it is not known when it began. Then none of
    its own time is counted, so that the time it waited is not.
    """
    run = found.flat("run")
    options = json.loads(run.get(b"options", b"{}"))
    timeout: float | None = options.get("timeout")
    due_at = found.timers.get("")
    if due_at is not None and timeout is not None:
        return max(0, timeout - (due_at - now) / 1000)
    before: float = options.get("spent", 0)
    if b"ticket" in run or b"fills" in run:
        return before
    return before + max(0, int(run.get(b"ended_at", now)) - int(run[b"created_at"])) / 1000


class _Reading:
    """Parses the contents of the keys."""

    def __init__(self, found: Contents) -> None:
        self.run, self.state, self.work, self.events = (found.flat(name) for name in ("run", "state", "work", "events"))
        self.queue, self.scopes, self.joins = (found.flat(name) for name in ("queue", "scopes", "joins"))
        self.waiters, self.collect = found.flat("waiters"), found.flat("collect")
        self.children, self.waiting = found.flat("children"), {name.partition(b"|")[0] for name in self.waiters}
        self.inbox, self.timers, self.lists = found.by_name.get("inbox", ()), found.timers, found.by_name

    def snapshot(self) -> RunSnapshot:
        live = RunSnapshot(
            workflow=self.run[b"workflow"].decode(),
            status=self.run[b"status"].decode(),
            state={key.decode(): value for key, value in self.state.items()},
        )
        if not live.goes_on:
            return live
        records = [decode(packed)._replace(work_id=name.decode()) for name, packed in self.work.items()]
        return replace(
            live,
            items=tuple(self._item(record) for record in (*records, *self._queued()) if not record.cancelled),
            waiters=tuple(
                SavedWaiter(waiter=Waiter.from_bytes(name.decode(), data), due_at=self.timers.get(name.decode()))
                for name, data in self.waiters.items()
            ),
            scopes=tuple(self._open_scopes()),
            slots=tuple(self._join_slots()),
            buffers=tuple(self._buffers()),
            inbox=tuple(Envelope.from_bytes(unpack_raw(raw)[b"d"]) for raw in self.inbox),
            sets={name[:-1].decode(): int(n) for name, n in self.joins.items() if name.endswith(b"#")},
        )

    def _envelopes(self, name: str) -> tuple[Envelope, ...]:
        return tuple(Envelope.from_bytes(raw) for raw in self.lists.get(name, ()))

    def _event(self, event_id: str) -> Envelope:
        return Envelope.from_bytes(self.events[event_id.encode()])

    def _buffers(self) -> Iterator[SavedBuffer]:
        for name in self.lists:
            if name.startswith("buffer:"):
                buffer = self.collect[name.encode()].decode()
                step, _, buffer_id = buffer.partition("|")
                due_at = self.timers.get(f"buffer|{buffer}")
                yield SavedBuffer(step=step, buffer_id=buffer_id, members=self._envelopes(name), due_at=due_at)

    def _queued(self) -> Iterator[WorkRecord]:
        """The records in the FIFOs, step by step; staged segments record by record."""
        for name in self.queue:
            if not name.endswith(b":t"):
                continue
            step = name[:-2]
            first = int(self.queue.get(step + b":h", 0)) + 1
            for index in range(first, int(self.queue[name]) + 1):
                entry = unpack(self.queue[step + b":%d" % index])
                if "seg" not in entry:
                    yield read(entry)
                    continue
                for member in range(entry["i"] + 1, entry["n"] + 1):
                    yield decode(self.queue[f"{entry['seg']}#{member}".encode()])

    def _item(self, record: WorkRecord) -> SavedItem:
        if record.scope_id is not None:
            events = self._envelopes(f"members:{record.scope_id}:{record.step}")[: record.members]
        elif record.event is not None:
            events = (Envelope.from_bytes(record.event),)
        else:
            events = tuple(self._event(event_id) for event_id in record.all_event_ids)
        return SavedItem(
            work_id=record.work_id,
            step=record.step,
            events=events,
            fan_in=record.scope_id,
            event_name=record.event_name,
            scope=record.scope,
            recoveries=record.recoveries_each or (record.recoveries,),
            running=record.state == "running",
            suspended=record.state == "suspended" and record.work_id.encode() in self.waiting,
            children=tuple(self._open_children(record.work_id)) if record.awaited is not None else (),
            due_at=self.timers.get(record.work_id) if record.state == "delayed" else None,
            failures=record.failures,
            resumptions=record.resumptions,
            first_attempt_at=record.first_attempt_at,
            last_failed_at=record.last_failed_at,
            last_error=record.last_error,
            answers={waiter: self._event(str(e)) if e else None for waiter, e in record.answers.items()},
            ended=ends_of_children(record),
            sent=tuple(sorted(raw.decode() for raw in self.lists.get(f"sent:{record.work_id}", ()))),
            calls={name: self.collect[name.encode()].decode() for name in record.calls},
            taken={name: self._envelopes(name) for name in record.taken},
        )

    def _open_children(self, work_id: str) -> Iterator[SavedChild]:
        numbers = (name.rpartition(b"#") for name in self.children if name.startswith(f"{work_id}#".encode()))
        held = {self.children[b"#".join((item, n))]: int(n) for item, _, n in numbers}
        found = [
            (held.get(name, 0), name, child)
            for name, raw in self.children.items()
            if b"|" not in name and b"#" not in name and (child := unpack_raw(raw))[b"w"] == work_id.encode()
        ]
        for _, name, child in sorted(found, key=lambda each: each[:2]):
            if child[b"st"] in (b"held", b"starting", b"running", b"reviving"):
                yield SavedChild(
                    child_id=name.decode(),
                    wait=child[b"wt"].decode(),
                    status=child[b"st"].decode(),
                    on_parent_end=child[b"pe"].decode(),
                    workflow=child[b"wf"].decode(),
                    plan_digest=child[b"pl"].decode(),
                    plan=self.children.get(b"plan|" + child[b"pl"]),
                    spec=child.get(b"sp"),
                )

    def _open_scopes(self) -> Iterator[SavedScope]:
        found: list[SavedScope] = []
        for name, packed in self.scopes.items():
            scope_id = name.decode()
            if ":" in scope_id or "/" in scope_id:
                continue
            meta = unpack(packed)
            joins = meta["j"] or []
            steps = [join["s"] for join in joins]
            found.append(
                SavedScope(
                    scope_id=scope_id,
                    parent=meta["p"],
                    joins=tuple((join["w"], join["s"]) for join in joins),
                    fired=tuple(step for step in steps if f"{scope_id}/{step}".encode() in self.scopes),
                    recoveries=meta["rc"],
                    members={
                        step: members for step in steps if (members := self._envelopes(f"members:{scope_id}:{step}"))
                    },
                )
            )
        return iter(sorted(found, key=lambda scope: (scope.parent.count("/"), scope.parent, scope.scope_id)))

    def _join_slots(self) -> Iterator[SavedSlot]:
        """The entries in the joins' FIFOs, whose fields are `step|scope~key|type:index`."""
        entries = []
        for name, packed in self.joins.items():
            stem, _, index = name.decode().rpartition(":")
            if index.isdigit():
                entries.append((stem, int(index), unpack(packed)))
        for stem, _, entry in sorted(entries, key=lambda each: each[:2]):
            buffer, _, accepted_as = stem.rpartition("|")
            step, _, place = buffer.partition("|")
            yield SavedSlot(
                step=step,
                scope=place.partition("~")[0],
                accepted_as=accepted_as,
                event=self._event(entry["e"]),
                recoveries=entry["rc"],
                due_at=self.timers.get(f"join|{buffer}"),
            )

"""Compare a run in Redis with its model, field by field."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgpack

from support.model.items import Item
from support.model.reference import ModelRun
from support.store.blocking import BlockingStore as Store
from umbel.orchestration.connection.keys import RUN_KEYS
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.store.record import decode, read

#: Keys of a run that are deleted when it completes.
SPENT = tuple(name for name, key in RUN_KEYS.items() if key.spent)


class Mismatch(AssertionError):
    """Redis and the model disagree."""


def agree(what: str, found: Any, expected: Any) -> None:
    """Raise `Mismatch` unless both are equal."""
    if found != expected:
        raise Mismatch(f"{what}\n  Redis: {found!r}\n  model: {expected!r}")


def _unpack(raw: bytes) -> dict[str, Any]:
    return dict(msgpack.unpackb(raw, raw=False, unicode_errors="surrogateescape"))


def compare(store: Store, run: ModelRun) -> None:
    """Compare every key of a run.

    Raises:
        Mismatch: A key differs from the model.
    """
    keys = store.locate(run.run_id)
    pipe = store.client.pipeline(transaction=True)
    counts = ("wv", "wa", "wr", "ia")
    pipe.hmget(keys["run"], "status", "live", "asleep", "scopes", "wv", "idle", "seq", "tokens", "commits", *counts)
    for name in ("work", "events", "slots", "queue", "scopes", "joins", "waiters"):
        pipe.hgetall(keys[name])
    pipe.zrange(keys["free"], 0, -1).lrange(keys["inbox"], 0, -1).smembers(keys["extra"])
    pipe.zrange(keys["unclaimed"], 0, -1).zrange(keys["timers"], 0, -1).exists(*(keys[name] for name in SPENT))
    meta, work, events, slots, queue, scopes, joins, waiters, free, inbox, extra, ring, timers, spent = pipe.execute()

    agree("status", meta[0].decode(), run.status)
    agree("sequence of the streams", int(meta[6] or 0), run.seq)
    agree("tokens", int(meta[7] or 0), run.tokens)
    agree("commits", int(meta[8] or 0), run.commits)
    agree("timers", {t.decode() for t in timers if t.split(b"|")[1] == run.run_id.encode()}, run.timers)
    if run.status == "completed":
        agree("keys of a completed run", spent, 0)
        return
    agree("live", int(meta[1] or 0), len(run.items))
    agree("asleep", int(meta[2] or 0), len(run.asleep()))
    agree("open fan-outs", int(meta[3] or 0), len(run.scopes))
    changes = run.version, run.added, run.removed, run.kept
    agree("changes of waiters and inbox", tuple(int(count or 0) for count in meta[9:]), changes)
    _compare_index(store, run)
    _compare_children(store, run)
    agree("work", {wid.decode(): _seen(raw) for wid, raw in work.items()}, _expected_work(run))
    ahead = {event_id: uses for staged in run.staged.values() for event_id, uses in staged.events.items()}
    expected = ahead | {event_id: uses for event_id, (_, uses) in run.events.items()}
    agree("events", _events(events) | _in_records(work, queue), expected)
    _compare_slots(run, slots, free)
    agree("queues", _queues(queue), {name: [_in_line(i) for i in q] for name, q in run.queues.items() if q})
    _compare_scopes(run, scopes)
    agree("joins", _joins(joins), _expected_joins(run))
    agree("waiters", {name.decode() for name in waiters}, {"|".join(key) for key in run.waiters})
    agree("inbox", [_unpack(raw)["id"] for raw in inbox], [kept.event_id for kept in run.inbox])
    agree("dynamic keys", {key.decode().removeprefix(keys["run"]) for key in extra}, expected_extra(run))
    if run.status == "running":
        agree("idle", int(meta[5] or 0), run.idle)
        mine = {m.decode() for m in ring if m.split(b"|")[0] == run.run_id.encode()}
        agree("ring", mine, {f"{run.run_id}|{i.work_id}|{i.line}" for i in run.in_state("ready")})


def _compare_children(store: Store, run: ModelRun) -> None:
    found = store.client.hgetall(store.locate(run.run_id)["children"])
    children = {name.decode(): _unpack(raw)["st"] for name, raw in found.items() if not {*b"|#"} & {*name}}
    agree("child runs", children, {name: child.status for name, child in run.family.children.items()})


def _in_line(item: Item) -> str:
    return "" if item.is_cancelled else item.work_id


def _compare_index(store: Store, run: ModelRun) -> None:
    members = [member.decode() for member in store.client.zrange(store.locate(run.run_id)["waiting"], 0, -1)]
    if members or len(run.waiters) > store.settings.waiters_indexed_from:
        indexed = {member.partition("|")[2] for member in members if not member.startswith("#")}
        agree("index of waiters", indexed, {"|".join(key) for key in run.waiters})


def _seen(raw: bytes) -> tuple[Any, ...]:
    record = decode(raw)
    counts = record.dispatch_no, record.failures, record.losses, record.charged_losses, record.resumptions
    claim = (record.token, record.claim_id, record.owner) if record.state == "running" else (None, None, None)
    flags = record.suspicion, record.alone, record.late, record.sent_early
    answers = {name: event_id or None for name, event_id in record.answers.items()}
    gathered = None if record.scope_id is None else (record.scope_id, record.members)
    return (
        record.step, record.state, record.slot, counts, claim, flags, list(record.all_event_ids), answers, gathered,
        record.scope
    )  # fmt: skip


def _expected(item: Item) -> tuple[Any, ...]:
    counts = item.dispatches, item.failures, item.losses, item.charged, item.resumptions
    claim = (item.token, item.claim_id, item.owner) if item.state == "running" else (None, None, None)
    flags = item.suspicion, item.alone, item.late, item.sent is not None
    gathered = None if item.gathered is None else (item.gathered[0], len(item.gathered[1]))
    return (
        item.step.name, item.state, item.slot, counts, claim, flags, item.event_ids, item.answers, gathered, item.scope
    )  # fmt: skip


def _expected_work(run: ModelRun) -> dict[str, tuple[Any, ...]]:
    return {item.work_id: _expected(item) for item in run.items.values() if item.state != "queued"}


def _events(raw: dict[bytes, bytes]) -> dict[str, int]:
    names = {name.decode() for name in raw}
    return {name: int(raw.get(b"#" + name.encode(), 1)) for name in names if not name.startswith("#")} | {
        name: -1 for name in names if name.startswith("#") and name[1:] not in names
    }


def _in_records(work: dict[bytes, bytes], queue: dict[bytes, bytes]) -> dict[str, int]:
    """Return the events stored in the record of their only work item."""
    records = [decode(raw) for name, raw in (*work.items(), *queue.items()) if name[-2:] not in (b":h", b":t")]
    return {str(record.event_id): 1 for record in records if record.event is not None}


def _compare_slots(run: ModelRun, raw: dict[bytes, bytes], free: list[bytes]) -> None:
    used: dict[str, dict[int, str]] = {name: {} for name in run.slots}
    below: Counter[str] = Counter()
    for field, value in raw.items():
        name, slash, n = field.decode().partition("/")
        if slash:
            used[name][int(n)] = value.decode()
        else:
            below[name] = int(value)
    agree("slots", used, run.slots)
    for field in free:
        name, _, n = field.decode().partition("/")
        agree(f"free slot {field!r} is in use or beyond", int(n) in used[name] or int(n) >= below[name], False)
    for name, holders in used.items():
        gaps = sum(field.decode().startswith(name + "/") for field in free)
        agree(f"numbers of {name}", below[name] - gaps, len(holders))
        if len(holders) > run.plan.by_name[name].num_workers:
            raise Mismatch(f"{name} has {len(holders)} slots in use")


def _queues(raw: dict[bytes, bytes]) -> dict[str, list[str]]:
    fields = {name.decode(): value for name, value in raw.items()}
    found = {}
    for name in [field[:-2] for field in fields if field.endswith(":t")]:
        ids = []
        for i in range(int(fields.get(f"{name}:h", 0)) + 1, int(fields[f"{name}:t"]) + 1):
            entry = _unpack(fields[f"{name}:{i}"])
            if "seg" in entry:
                ids += [decode(fields[f"{entry['seg']}#{n}"]).work_id for n in range(entry["i"] + 1, entry["n"] + 1)]
            else:
                ids.append(read(entry).work_id)
        found[name] = ids
    return found


def _compare_scopes(run: ModelRun, raw: dict[bytes, bytes]) -> None:
    fields = {name.decode() for name in raw}
    ids = {name for name in fields if "/" not in name and ":" not in name}
    agree("fan-outs", ids, set(run.scopes))
    fired = {name for name in fields if "/" in name}
    agree("fired joins", fired, {f"{i}/{name}" for i, scope in run.scopes.items() for name in scope.fired})
    inside = Counter(item.scope.rpartition("/")[2].partition(":")[0] for item in run.items.values())
    inside.update(scope.parent.rpartition("/")[2].partition(":")[0] for scope in run.scopes.values())
    counts = {name[:-2]: int(raw[name.encode()]) for name in fields if name.endswith(":n")}
    agree("open counts", counts, {scope_id: inside[scope_id] for scope_id in run.scopes})


def _joins(raw: dict[bytes, bytes]) -> dict[str, list[str]]:
    fields = {name.decode(): value for name, value in raw.items()}
    found = {}
    for name in [field[:-2] for field in fields if field.endswith(":t")]:
        span = range(int(fields.get(f"{name}:h", 0)) + 1, int(fields[f"{name}:t"]) + 1)
        found[name] = [_unpack(fields[f"{name}:{i}"])["e"] for i in span]
    sets = {field: int(value) for field, value in fields.items() if field.endswith("#")}
    entries = sum(len(ids) for ids in found.values())
    stray = len(fields) - entries - len(sets) - sum(f"{name}:h" in fields for name in found) - len(found)
    return found | {field: [str(n)] for field, n in sets.items()} | ({"stray": [str(stray)]} if stray else {})


def _expected_joins(run: ModelRun) -> dict[str, list[str]]:
    found = {
        f"{name}|{scope}|{slot}": [event_id for event_id, _ in buffer]
        for (name, scope), buffers in run.joins.items()
        for slot, buffer in buffers.items()
        if buffer
    }
    return found | {f"{name}|{scope}#": [str(n)] for (name, scope), n in run.sets.items()}


def expected_extra(run: ModelRun) -> set[str]:
    """Return the suffixes of the names of the run's dynamic keys."""
    found = {f":sent:{item.work_id}" for item in run.items.values() if item.sent is not None}
    for scope_id, scope in run.scopes.items():
        found |= {f":members:{scope_id}:{name}" for name, m in scope.members.items() if m and name not in scope.fired}
    for item in run.items.values():
        if item.gathered is not None and item.gathered[1]:
            found.add(f":members:{item.gathered[0]}:{item.step.name}")
    return found.union(*(staged.members for staged in run.staged.values()))


def compare_shard(store: Store, shard: int, held: dict[tuple[str, int], set[str]], gone: set[tuple[str, int]]) -> None:
    """Compare the indexes of a shard: the work that owners hold, and the counts of unclaimed work.

    Raises:
        Mismatch: An index differs from the model.
    """
    key = store.keys.in_shard
    owners = [owner for owner, where in held if where == shard]
    pipe = store.client.pipeline(transaction=True)
    pipe.zrange(key(shard, "unclaimed"), 0, -1).hgetall(key(shard, "unclaimed_counts")).zrange(
        key(shard, "fenced"), 0, -1
    )
    for owner in owners:
        pipe.smembers(key(shard, f"owner:{owner}"))
    ring, unclaimed, lost, *sets = pipe.execute()
    lines = Counter(member.decode().split("|", 2)[2] for member in ring)
    agree("counts of the unclaimed", {k.decode(): int(v) for k, v in unclaimed.items()}, dict(lines))
    agree("owners declared lost", {o.decode() for o in lost}, {owner for owner, where in gone if where == shard})
    for owner, members in zip(owners, sets, strict=True):
        agree(f"held by {owner}", {Held.parse(m.decode()).member for m in members}, held[owner, shard])

"""Long-running steps. From outside, a busy step and one that hangs look the same: a person has to decide."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.work_item import Held
from ..store.record import WorkRecord, decode
from ..store.verbs import Store

#: Maximum claims that are read.
_SAMPLE = 5_000


@dataclass(frozen=True, slots=True)
class LongRunning:
    """One execution in progress.

    Attributes:
        run_id: Its run.
        step: Its step.
        owner: The process, as `worker|host|pid|incarnation`.
        seconds: Since it was claimed.
        has_time_limit: Whether a time limit will end it (`@step(timeout=…)`).
    """

    run_id: str
    step: str
    owner: str
    seconds: float
    has_time_limit: bool


async def long_running(store: Store, seconds: float) -> list[LongRunning]:
    """Executions that have been running for at least this long, longest first; at most `_SAMPLE` claims are read."""
    shards = range(store.settings.shards)
    (whole_seconds, micros), *found = await store.batch(
        "look who is at work",
        ("TIME",),
        *(("ZRANGE", store.keys.in_shard(shard, "leases"), 0, -1) for shard in shards),
    )
    now = int(whole_seconds) + int(micros) / 1e6
    places = [(shard, owner.decode()) for shard, names in zip(shards, found, strict=True) for owner in names]
    members = await store.batch(
        "look who is at work",
        *(("SRANDMEMBER", store.keys.in_shard(shard, f"owner:{owner}"), _SAMPLE) for shard, owner in places),
    )
    held = [
        (Held.parse(member.decode()), owner)
        for (_, owner), page in zip(places, members, strict=True)
        for member in page
    ][:_SAMPLE]
    answers = await store.batch(
        "look at steps at work", *(("HGET", store.locate(each.run_id)["work"], each.work_id) for each, _ in held)
    )
    going_on = []
    for (each, owner), packed in zip(held, answers, strict=True):
        record = WorkRecord() if packed is None else decode(packed)
        if record.state == "running" and record.claim_id == each.claim_id and record.claimed_at is not None:
            age = now - record.claimed_at / 1000
            if age >= seconds:
                going_on.append(LongRunning(each.run_id, record.step, owner, age, record.time_limit is not None))
    return sorted(going_on, key=lambda step: -step.seconds)

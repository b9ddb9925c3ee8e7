"""Metrics of a deployment: totals and present state, read from Redis, so any process can report for all.

Scripts increment the counters in the `counters` hash of each shard. The processes that execute steps collect histograms
and send them with their heartbeats (`tasks/owner/histograms.py`). The shards are added up here, in three round trips
however many runs there are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..model.commands import END_STATUSES, RUN_STATUSES
from ..store.record import decode
from ..store.replies import pairs
from ..store.verbs import Store

#: Upper bounds of the histograms' buckets, in milliseconds.
BOUNDS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000)

#: Counters that scripts increment. Their descriptions are in `server/operations/prometheus.py`.
COUNTERS = (
    "retries",
    "dead_letters",
    "losses",
    "lost_owners",
    "deadlines",
    "redispatches",
    "stale_commits",
    "duplicate_doorbells",
    "stale_doorbells",
    "absorbed_sends",
    "repeated_commits",
)

#: The last hour, in parts of two minutes.
PARTS, PART_SECONDS = 30, 120

#: Members of a shard's unclaimed index that are read to find the oldest.
_SAMPLE = 50


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long something took.

    Attributes:
        counts: Observations per bucket: one for each of BOUNDS, and one beyond; not cumulative.
        total_ms: The sum of all observations.
    """

    counts: tuple[int, ...]
    total_ms: int

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """Unclaimed dispatches of one queue.

    Attributes:
        number: How many.
        oldest_seconds: Time since the latest dispatch of the one that has waited longest, in a sample.
    """

    number: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of a deployment.

    Attributes:
        counters: Values of COUNTERS, since the deployment began.
        steps: (workflow, step) -> how long its attempts took, from claim to commit.
        waits: queue -> how long its steps waited from dispatch to claim, without continued steps.
        runs: status -> number of runs; ended ones while they are retained.
        unclaimed: queue -> its unclaimed dispatches.
        parked: Steps that wait for a worker with their code.
        waiting_for_place: Runs that wait because of `num_concurrent_runs`.
        sweep_lag_seconds: How long the oldest due timer or lease is overdue.
    """

    counters: Mapping[str, int]
    steps: Mapping[tuple[str, str], Histogram]
    waits: Mapping[str, Histogram]
    runs: Mapping[str, int]
    unclaimed: Mapping[str, Unclaimed]
    parked: int
    waiting_for_place: int
    sweep_lag_seconds: float


async def read_metrics(store: Store) -> Metrics:
    """The metrics of a deployment now. Only reads; the shards are not read at the same moment.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    shards = range(store.settings.shards)
    asked: list[tuple[Any, ...]] = []
    for shard in shards:
        asked.append(("HGETALL", store.keys.in_shard(shard, "counters")))
        asked.extend(("ZCARD", store.keys.in_shard(shard, f"runs:{status}")) for status in RUN_STATUSES)
        asked.extend(("ZCARD", store.keys.in_shard(shard, name)) for name in ("parked", "awaiting_admission"))
        due = (store.keys.in_shard(shard, name) for name in ("timers", "leases"))
        asked.extend(("ZRANGE", key, 0, 0, "WITHSCORES") for key in due)
    *answers, (seconds, micros) = await store.batch("read the counters", *asked, ("TIME",))
    width = len(RUN_STATUSES) + 5
    now = int(seconds) * 1000 + int(micros) / 1000
    counted: Counter[str] = Counter()
    runs: Counter[str] = Counter(dict.fromkeys(RUN_STATUSES, 0))
    parked = waiting = 0
    lag = 0.0
    for shard in shards:
        counters, *rest = answers[width * shard : width * (shard + 1)]
        counted.update({name.decode(): int(value) for name, value in pairs(counters).items()})
        runs.update(dict(zip(RUN_STATUSES, rest, strict=False)))
        parked += rest[-4]
        waiting += rest[-3]
        for due_at in (float(first[1]) for first in rest[-2:] if first):
            lag = max(lag, (now - due_at) / 1000 if due_at else 0.0)  # a lease of 0 is being handed over
    return Metrics(
        counters={name: counted[name] for name in COUNTERS},
        steps={tuple(name.rsplit("|", 1)): of for name, of in _histograms(counted, "took|")},  # type: ignore[misc]
        waits=dict(_histograms(counted, "wait|")),
        runs=runs,
        unclaimed=await unclaimed(store, sample=_SAMPLE),
        parked=parked,
        waiting_for_place=waiting,
        sweep_lag_seconds=lag,
    )


def _histograms(counted: Mapping[str, int], prefix: str) -> Iterable[tuple[str, Histogram]]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS) + 1))
    sums: dict[str, int] = {}
    for field, value in counted.items():
        if field.startswith(prefix):
            name, _, part = field.removeprefix(prefix).rpartition("|")
            if part == "sum":
                sums[name] = value
            else:
                counts[name][int(part) - 1] = value
    return [(name, Histogram(tuple(found), sums.get(name, 0))) for name, found in sorted(counts.items())]


async def unclaimed(store: Store, *, sample: int) -> dict[str, Unclaimed]:
    """Unclaimed dispatches per queue, with the age of the oldest among `sample` members of each index.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    asked: list[tuple[Any, ...]] = []
    for shard in range(store.settings.shards):
        asked.append(("HGETALL", store.keys.in_shard(shard, "unclaimed_counts")))
        asked.append(("ZRANGE", store.keys.in_shard(shard, "unclaimed"), 0, sample - 1))
    *answers, (seconds, micros) = await store.batch("look at unclaimed steps", *asked, ("TIME",))
    numbers: Counter[str] = Counter()
    for counts in answers[::2]:
        for line, number in pairs(counts).items():
            numbers[_queue_of(line.decode())] += int(number)
    members = [member.decode().split("|", 2) for page in answers[1::2] for member in page]
    found = await store.batch(
        "look at unclaimed steps", *(("HGET", store.locate(run_id)["work"], work_id) for run_id, work_id, _ in members)
    )
    oldest: dict[str, int] = {}
    for (_, _, line), raw in zip(members, found, strict=True):
        if raw is not None:
            queue, at = _queue_of(line), decode(raw).dispatched_at
            if at is not None:
                oldest[queue] = min(at, oldest.get(queue, at))
    now = int(seconds) + int(micros) / 1_000_000
    return {
        queue: Unclaimed(number, max(0.0, now - oldest[queue] / 1000) if queue in oldest else 0.0)
        for queue, number in sorted(numbers.items())
        if number > 0
    }


def _queue_of(line: str) -> str:
    """The queue of a line `queue/priority`."""
    return line.rpartition("/")[0]


# -- for people ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """Runs that ended, by time.

    Attributes:
        since_at: Start of the first part, in Redis ms.
        now: Redis ms.
        counts: Status -> how many runs ended in each part, oldest first.
    """

    since_at: int
    now: int
    counts: dict[str, tuple[int, ...]]


async def ended_lately(store: Store) -> Ended:
    """Runs that ended in the last hour, by status, in `PARTS` of `PART_SECONDS`; those deleted since are not counted.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    seconds, micros = await store.command("ask for the time", "TIME")
    now = int(seconds) * 1000 + int(micros) // 1000
    size = PART_SECONDS * 1000
    last = now - now % size + size
    edges = [last - size * (PARTS - number) for number in range(PARTS + 1)]
    shards = range(store.settings.shards)
    asked = [
        ("ZCOUNT", store.keys.in_shard(shard, f"runs:{status}"), begin, f"({end}")
        for status in END_STATUSES
        for begin, end in pairwise(edges)
        for shard in shards
    ]
    answers: list[int] = await store.batch("count runs", *asked)
    sums = [sum(answers[at : at + len(shards)]) for at in range(0, len(answers), len(shards))]
    return Ended(
        edges[0], now, {status: tuple(sums[n * PARTS : (n + 1) * PARTS]) for n, status in enumerate(END_STATUSES)}
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of Redis, in bytes: of all nodes of a cluster together.

    Attributes:
        used: In use.
        limit: `maxmemory`; 0 for none.
    """

    used: int
    limit: int


async def memory_of(store: Store) -> Memory:
    """How much memory Redis uses.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    used = limit = 0
    for raw in await store.everywhere("ask for the memory", "INFO", "memory"):
        found = dict(line.split(":", 1) for line in raw.decode().splitlines() if ":" in line)
        used += int(found.get("used_memory", 0))
        limit += int(found.get("maxmemory", 0))
    return Memory(used, limit)


def quantile(histogram: Histogram, share: float) -> int:
    """The upper bound, in ms, of the bucket that contains this quantile; 0 without observations."""
    wanted, seen = histogram.count * share, 0
    for number, each in enumerate(histogram.counts):
        seen += each
        if each and seen >= wanted:
            return BOUNDS[min(number, len(BOUNDS) - 1)]
    return 0

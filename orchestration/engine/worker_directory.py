"""Which workers a deployment has, as they announce themselves with every sweep."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from ..model.errors import ConfigurationError, StoreUnavailable
from ..store.replies import pairs
from ..store.verbs import Store

#: How long a worker that was killed stays in the directory, visible to people and monitors.
FORGOTTEN_SECONDS = 900.0

#: How long Redis must refuse a write to count as taking none: after a failover the next connection may lead elsewhere.
_REFUSED_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """One worker that has announced itself and not deregistered.

    Attributes:
        name: Its Celery node name.
        host: Where it runs.
        pid: Its main process there.
        workflows: Names of the workflows whose code it has.
        queues: The queues it takes messages from.
        paused: Queues that it was started with but takes nothing from now: their consumer was cancelled.
        silent_seconds: Time since its last announcement.
        is_live: Whether its last announcement is recent enough.
        detours: Why its messages pass through Celery's consumer instead of going straight to its pool.
        library: The library of functions that it uses; empty for a worker of a release without one.
        sources: Workflow -> file and digest of its code on that worker, where known.
        pool: What executes its steps: `asyncio`, `prefork`, `solo`, `thread`, …; empty if it does not report it.
        events: Event that comes from outside -> its fields, as `tasks/values/described_fields.py` describes them.
    """

    name: str
    host: str
    pid: int
    workflows: tuple[str, ...]
    queues: tuple[str, ...]
    silent_seconds: float
    is_live: bool
    detours: tuple[str, ...] = ()
    library: str = ""
    paused: tuple[str, ...] = ()
    sources: dict[str, tuple[str, str]] = field(default_factory=dict)
    events: dict[str, Any] = field(default_factory=dict)
    pool: str = ""

    def serves(self, workflow: str) -> bool:
        """Whether this worker can execute steps of the workflow."""
        return self.is_live and workflow in self.workflows


async def seen_workers(store: Store) -> list[SeenWorker]:
    """All announced workers, by name; those that were killed stay for 15 minutes and are not live."""
    announced, (seconds, micros) = await store.batch(
        "look at the workers", ("HGETALL", store.keys.in_shard(0, "workers")), ("TIME",)
    )
    patience = max(store.settings.lease_seconds, 8 * store.settings.sweep_seconds)
    found = []
    for name, data in sorted(pairs(announced).items()):
        about = json.loads(data)
        # If in the future: announced before Redis's clock was set back. A live worker soon announces itself again.
        silent = abs(int(seconds) + int(micros) / 1e6 - about["seen_at"] / 1000)
        found.append(
            SeenWorker(
                name=name.decode(),
                host=about["host"],
                pid=about["pid"],
                workflows=tuple(about["workflows"]),
                queues=tuple(about["queues"]),
                silent_seconds=silent,
                is_live=silent <= patience,
                detours=tuple(about.get("detours", ())),
                library=about.get("library", ""),
                paused=tuple(about.get("paused", ())),
                sources={name: (file, digest) for name, (file, digest) in about.get("sources", {}).items()},
                events=about.get("events", {}),
                pool=about.get("pool", ""),
            )
        )
    return found


async def refused_writes(store: Store, shards: Iterable[int] = (0,)) -> StoreUnavailable | None:
    """Why Redis takes no writes although it answers, with what helps; None if it takes them, or if this is not known.

    Ask this before a worker counts as dead: meanwhile no worker can announce itself. The directory is in shard 0.

    *Promise:* nothing is changed: an empty string is written into the deployment's record. (`INFO`, which also shows
    most of this, is often forbidden.)

    Args:
        store: The store.
        shards: Whose primaries are asked.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    nothing = [("SETRANGE", store.keys.in_shard(shard, "deployment"), 0, "") for shard in shards]
    what = "check whether workers can announce themselves"
    try:
        await store.connection.batch(what, nothing, patience_seconds=_REFUSED_SECONDS)
    except StoreUnavailable as error:
        if error.refuses:
            return error
        raise
    except (ConfigurationError, ResponseError):  # this user may only read
        return None
    return None


async def forget_silent(store: Store) -> None:
    """Remove workers that have been silent for `FORGOTTEN_SECONDS`: they were killed.

    *Promise:* one that is alive after all returns with its next sweep.
    """
    forgotten = [worker.name for worker in await seen_workers(store) if worker.silent_seconds > FORGOTTEN_SECONDS]
    if forgotten:
        await store.command("forget silent workers", "HDEL", store.keys.in_shard(0, "workers"), *forgotten)

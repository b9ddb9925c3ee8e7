"""Which workers a deployment has, as they announce themselves with every sweep."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ..store.replies import pairs
from ..store.verbs import Store

#: A worker that was killed stays in the directory for so long, to be seen by people and monitors.
FORGOTTEN_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """One worker that has announced itself and not said goodbye.

    Attributes:
        name: Its Celery node name.
        host: Where it runs.
        pid: Its main process there.
        workflows: Names of the workflows it has the code of.
        queues: The queues it takes messages from.
        paused: Queues that it was started with and takes nothing from now: their consumer was cancelled.
        silent_seconds: Since its last announcement.
        is_live: It announced itself recently enough to be believed.
        detours: Why its messages pass through Celery's consumer instead of going straight to its pool.
        library: The library of functions that it uses; empty for a worker of a release without.
        sources: Workflow -> file and digest of its code there, where they are known.
        pool: What executes its steps: `asyncio`, `prefork`, `solo`, `thread`, …; empty for a worker that does not say.
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
        """Whether runs of this workflow may go on here."""
        return self.is_live and workflow in self.workflows


async def seen_workers(store: Store) -> list[SeenWorker]:
    """All workers that are announced, by name; those that were killed stay for 15 minutes and are not live."""
    announced, (seconds, micros) = await store.batch(
        "look at the workers", ("HGETALL", store.keys.in_shard(0, "workers")), ("TIME",)
    )
    patience = max(store.settings.lease_seconds, 8 * store.settings.sweep_seconds)
    found = []
    for name, data in sorted(pairs(announced).items()):
        about = json.loads(data)
        # In the future: announced before Redis's clock was set back. A worker that lives announces itself soon again.
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


async def forget_silent(store: Store) -> None:
    """Remove workers that have been silent for `FORGOTTEN_SECONDS`: they were killed.

    *Promise:* one that lives after all is back with its next sweep.
    """
    forgotten = [worker.name for worker in await seen_workers(store) if worker.silent_seconds > FORGOTTEN_SECONDS]
    if forgotten:
        await store.command("forget silent workers", "HDEL", store.keys.in_shard(0, "workers"), *forgotten)

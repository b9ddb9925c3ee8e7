"""Queues that are paused: no worker takes messages from them."""

from __future__ import annotations

from ...store.verbs import Store


async def pause_queue(store: Store, queue: str) -> None:
    """Stop all workers from taking messages from a queue.

    *Promise:* recorded in Redis, so it outlives all processes and holds for workers that start later. Running workers
    apply it with one of their next sweeps. Steps that are already executing continue.
    """
    now = await store.command("ask for the time", "TIME")
    await store.command("pause a queue", "HSETNX", _key(store), queue, int(now[0]) * 1000)


async def resume_queue(store: Store, queue: str) -> bool:
    """Let workers take messages from a queue again; False if it was not paused."""
    return bool(await store.command("resume a queue", "HDEL", _key(store), queue))


def _key(store: Store) -> str:
    return store.keys.in_shard(0, "paused_queues")

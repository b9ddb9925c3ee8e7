# taskiq is an optional peer.
# mypy: disable-error-code="import-not-found,untyped-decorator"
"""The shapes in taskiq, chained by hand. Its fastest Redis broker is the one that uses a stream."""

from __future__ import annotations

import os
from typing import Any

import redis.asyncio
from taskiq_redis import RedisStreamBroker

from .shapes_umbel import CHAIN_STEPS

URL = os.environ.get("BENCHMARK_REDIS", "redis://localhost:6379/0")
client: Any = redis.asyncio.Redis.from_url(URL)
broker = RedisStreamBroker(URL)


async def tell_done(run: str) -> None:
    """Wake the client that waits for this run."""
    await client.lpush(f"done:{run}", 1)


@broker.task("hop")
async def hop(run: str, number: int, data: str) -> None:
    """A link that sends the next one."""
    if number == CHAIN_STEPS:
        await tell_done(run)
    else:
        await hop.kiq(run, number + 1, data)


@broker.task("split")
async def split(run: str, width: int, data: str) -> None:
    """Fan out."""
    await client.set(f"left:{run}", width)
    for number in range(width):
        await work.kiq(run, number, data)


@broker.task("work")
async def work(run: str, number: int, data: str) -> None:
    """One of many; the last one sends the join."""
    if await client.decr(f"left:{run}") == 0:
        await join.kiq(run, data)


@broker.task("join")
async def join(run: str, data: str) -> None:
    """End of the fan."""
    await client.delete(f"left:{run}")
    await tell_done(run)


@broker.task("single")
async def single(run: str, data: str) -> None:
    """The only step."""
    await tell_done(run)

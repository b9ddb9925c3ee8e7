# dramatiq is an optional peer.
# mypy: disable-error-code="import-not-found,no-untyped-call,untyped-decorator"
"""The shapes in dramatiq, chained by hand."""

from __future__ import annotations

import os

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from .shapes_umbel import CHAIN_STEPS

URL = os.environ.get("BENCHMARK_REDIS", "redis://localhost:6379/0")
client = redis.Redis.from_url(URL)
dramatiq.set_broker(RedisBroker(url=URL))


def tell_done(run: str) -> None:
    """Wake the client that waits for this run."""
    client.lpush(f"done:{run}", 1)


@dramatiq.actor
def hop(run: str, number: int, data: str) -> None:
    """A link that sends the next one."""
    if number == CHAIN_STEPS:
        tell_done(run)
    else:
        hop.send(run, number + 1, data)


@dramatiq.actor
def split(run: str, width: int, data: str) -> None:
    """Fan out."""
    client.set(f"left:{run}", width)
    for number in range(width):
        work.send(run, number, data)


@dramatiq.actor
def work(run: str, number: int, data: str) -> None:
    """One of many; the last one sends the join."""
    if client.decr(f"left:{run}") == 0:
        join.send(run, data)


@dramatiq.actor
def join(run: str, data: str) -> None:
    """End of the fan."""
    client.delete(f"left:{run}")
    tell_done(run)


@dramatiq.actor
def single(run: str, data: str) -> None:
    """The only step."""
    tell_done(run)

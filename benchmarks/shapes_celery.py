# Celery is untyped.
# mypy: disable-error-code=untyped-decorator
"""The same shapes in plain Celery: chained by hand, and as canvas.

The version by hand is a lower bound, not a product: a task sends the next one, a counter in Redis joins, and nothing is
kept, retried or recovered. Canvas needs a result backend and keeps results.
"""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

from .shapes_umbel import CHAIN_STEPS, GATED_STEP, pass_gate

#: The Redis of a worker.
URL = os.environ.get("BENCHMARK_REDIS", "redis://localhost:6379/0")
client = redis.Redis.from_url(URL)

by_hand = Celery("by_hand", broker=URL, set_as_current=False)
by_hand.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)

canvas = Celery("canvas", broker=URL, backend=URL, set_as_current=False)
canvas.conf.update(broker_connection_retry_on_startup=True)


def tell_done(run: str) -> None:
    """Wake the client that waits for this run."""
    client.lpush(f"done:{run}", 1)


@by_hand.task
def hop(run: str, number: int, data: str) -> None:
    """A link that sends the next one."""
    if number == CHAIN_STEPS:
        tell_done(run)
    else:
        hop.delay(run, number + 1, data)


@by_hand.task
def split(run: str, width: int, data: str) -> None:
    """Fan out."""
    client.set(f"left:{run}", width)
    for number in range(width):
        work.delay(run, number, data)


@by_hand.task
def work(run: str, number: int, data: str) -> None:
    """One of many; the last one sends the join."""
    if client.decr(f"left:{run}") == 0:
        join.delay(run, data)


@by_hand.task
def join(run: str, data: str) -> None:
    """End of the fan."""
    client.delete(f"left:{run}")
    tell_done(run)


@by_hand.task
def single(run: str, data: str) -> None:
    """The only step."""
    tell_done(run)


@by_hand.task
def tick(run: str, count: int, pause_seconds: float, data: str) -> None:
    """Report while working."""
    for number in range(count):
        time.sleep(pause_seconds)
        client.xadd(f"ticks:{run}", {"number": number, "written_at_ns": time.time_ns(), "data": data})
    tell_done(run)


@canvas.task
def canvas_hop(data: str, number: int, gate: str | None) -> str:
    """A link, which passes its result to the next one."""
    if number == GATED_STEP:
        pass_gate(gate)
    return data


@canvas.task
def canvas_work(number: int, data: str) -> str:
    """One of many."""
    return data


@canvas.task
def canvas_join(parts: list[str]) -> int:
    """All of them."""
    return len(parts)


@canvas.task
def canvas_single(data: str) -> str:
    """The only step."""
    return data

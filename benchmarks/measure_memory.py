"""Memory of a run in Redis, while it runs and afterwards."""

from __future__ import annotations

import time

from .contender import Contender
from .measure import run_chains
from .shape import Sizes
from .waiting import stored_bytes


def bytes_finished_chain(contender: Contender, sizes: Sizes) -> float | None:
    """Redis memory that a finished chain leaves behind."""
    if not contender.keeps_runs:
        return None
    before = settled_bytes(contender, sizes)
    run_chains(contender, sizes.stored_runs)
    return (settled_bytes(contender, sizes) - before) / sizes.stored_runs


def bytes_finished_fan(contender: Contender, sizes: Sizes) -> float | None:
    """Redis memory that a finished fan-out leaves behind."""
    if not contender.keeps_runs:
        return None
    before = settled_bytes(contender, sizes)
    contender.fans(sizes.stored_fans, sizes.fan)
    return (settled_bytes(contender, sizes) - before) / sizes.stored_fans


def bytes_running_chain(contender: Contender, sizes: Sizes) -> float | None:
    """Redis memory of a chain that is half-way, including its message."""
    if not contender.keeps_runs:
        return None
    gate = "benchmark-gate"
    before = settled_bytes(contender, sizes)
    chains = contender.chains(1, gate)
    next(chains)
    while not _somebody_waits(contender):
        time.sleep(0.01)
    used = settled_bytes(contender, sizes) - before
    contender.redis.lpush(gate, 1)
    for _ in chains:
        pass
    return used


def settled_bytes(contender: Contender, sizes: Sizes) -> int:
    """Stored bytes once they no longer change: workers acknowledge and clean up after the client has its result.

    Then finished runs are compressed and their answers to commits are removed, as otherwise happens a minute later.
    """
    before, since = stored_bytes(contender.redis), time.monotonic()
    deadline = since + 30
    while (now := time.monotonic()) < min(since + sizes.settle_seconds, deadline):
        time.sleep(0.1)
        used = stored_bytes(contender.redis)
        if used != before:
            before, since = used, now
    contender.compress()
    return stored_bytes(contender.redis)


def _somebody_waits(contender: Contender) -> bool:
    # The worker's own consumer waits in BRPOP, so only a step at the gate waits in BLPOP.
    return any(each["cmd"] == "blpop" and "b" in each["flags"] for each in contender.redis.client_list())

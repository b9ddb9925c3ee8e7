"""The cost of one page of the list of runs, with ten thousand runs: the console requests it every few seconds.

    python -m benchmarks.run_list                  # ten thousand runs
    python -m benchmarks.run_list --runs 100000

Processor time of this process and of Redis hardly depends on other load; elapsed time does.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator

from umbel import Settings
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.connection.redis_client import Client, connect
from umbel.orchestration.inspection.run_list import RunQuery, list_runs
from umbel.orchestration.model.commands import RUN_STATUSES
from umbel.tasks.client.runtime import Runtime
from umbel.workers.embedded.redis_server import EmbeddedRedis

#: How many of a hundred runs have each status, in the order of RUN_STATUSES.
SHARES = (1, 80, 10, 5, 4)
ROUNDS = 15


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser("python -m benchmarks.run_list", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, metavar="N", help="how many there are (default 10,000)")
    count = parser.parse_args().runs
    with EmbeddedRedis.temporary() as server:
        runtime = Runtime(Settings(redis_url=server.url))
        some = keep(runtime, count)
        print(f"{count:,} runs; milliseconds: median and least time passed, processor time here and in Redis")
        for title, query in queries(some):
            passed, here, redis, found = zip(*measured(runtime, query), strict=True)
            print(
                f"{title:<28}{statistics.median(passed):>8.1f}{min(passed):>8.1f}{statistics.median(here):>8.1f}"
                f"{statistics.median(redis):>8.1f}   {found[0]} runs"
            )
        runtime.close()


def keep(runtime: Runtime, count: int) -> str:
    """Put runs into Redis as the scripts leave them; returns an id from the middle."""
    ids = [new_id() for _ in range(count)]
    pipe = connect(runtime.settings.redis_url or "").pipeline(transaction=False)
    for number, run_id in enumerate(ids):
        keys, [status] = runtime.store.locate(run_id), random.choices(RUN_STATUSES, SHARES)
        record = {"status": status, "workflow": f"shop.flows.Flow{number % 7}", "created_at": number, "live": 0}
        pipe.hset(keys["run"], mapping=record if status == "running" else record | {"ended_at": number})
        pipe.zadd(keys[f"runs:{status}"], {run_id: number})
    pipe.execute()
    return ids[count // 2]


def queries(some_id: str) -> Iterator[tuple[str, RunQuery]]:
    """Typical queries."""
    yield "the first page", RunQuery()
    yield "the failed ones", RunQuery(statuses=("failed",))
    yield "one workflow", RunQuery(workflows=("shop.flows.Flow3",))
    yield "part of an id", RunQuery(search=some_id[4:10])
    yield "what is nowhere", RunQuery(search="nothing like this")


def measured(runtime: Runtime, query: RunQuery) -> Iterator[tuple[float, float, float, int]]:
    """Elapsed time, processor time here and in Redis (milliseconds), and runs on the page, for each round."""
    client = connect(runtime.settings.redis_url or "")
    for _ in range(ROUNDS):
        redis, here, began = redis_seconds(client), time.process_time(), time.perf_counter()
        page = runtime.portal.call(list_runs(runtime.store, query))
        passed, here = time.perf_counter() - began, time.process_time() - here
        yield passed * 1000, here * 1000, (redis_seconds(client) - redis) * 1000, len(page.runs)


def redis_seconds(client: Client) -> float:
    """Processor time of Redis so far."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


if __name__ == "__main__":
    main()

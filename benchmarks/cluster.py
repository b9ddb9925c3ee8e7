"""The cost of a step when the runs are in a Redis Cluster, and its distribution over the primaries.

    python -m benchmarks.cluster            # a single server, then clusters of 1, 2 and 3 primaries
    python -m benchmarks.cluster --quick

All servers and workers share this machine, so the figures are processor time per step, which hardly depends on other
load. As long as the total of all primaries stays the same, throughput grows with the number of primaries, limited by
the share of the busiest one. The broker is a separate Redis, also for the single server.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from redis.exceptions import RedisError

from umbel import Runtime, Settings
from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.engine.worker_directory import seen_workers
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor

from .contend_umbel import SHAPES_UMBEL
from .processor_time import processor_seconds
from .shapes_umbel import CHAIN_STEPS, Chain
from .waiting import PATIENCE_SECONDS, Fleet, connected, tell, wait_until

_SLOTS = 16384
_SHARDS = 64


@dataclass(frozen=True)
class Servers:
    """The servers that hold the state.

    Attributes:
        url: The URL for umbel.
        pids: The process id of each.
    """

    url: str
    pids: Sequence[int]


@dataclass(frozen=True)
class Cost:
    """Processor time per step, in microseconds.

    Attributes:
        workers: Of all workers together.
        servers: Of each server that holds state.
    """

    workers: float
    servers: Sequence[float]

    def row(self, name: str) -> str:
        """The line for a terminal."""
        busiest = max(self.servers) / sum(self.servers)
        return f"{name:<14}{self.workers:>12,.0f} us{sum(self.servers):>12,.0f} us{busiest:>10.0%}"


@contextmanager
def cluster(supervisor: Supervisor, primaries: int) -> Iterator[Servers]:
    """A cluster with this many primaries and append-only files."""
    with TemporaryDirectory() as folder, open(os.devnull, "wb") as silence:
        ports, buses = ([free_port() for _ in range(primaries)] for _ in range(2))
        processes = []
        for port, bus in zip(ports, buses, strict=True):
            home = Path(folder, str(port))
            home.mkdir()
            options = {"port": port, "cluster-port": bus, "dir": home, "bind": "127.0.0.1", "cluster-enabled": "yes"}
            command = [str(find_server()), "--appendonly", "yes", "--save", ""]
            command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
            processes.append(supervisor.spawn(command, cwd=home, output=silence.fileno()))
        clients = [connect(f"redis://127.0.0.1:{port}/0") for port in ports]
        wait_until(lambda: all(map(_answers, clients)), "servers")
        edges = [_SLOTS * part // primaries for part in range(primaries + 1)]
        for epoch, (client, (first, end)) in enumerate(zip(clients, pairwise(edges), strict=True), 1):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for port, bus in zip(ports[1:], buses[1:], strict=True):
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        wait_until(lambda: all(_is_whole(client, primaries) for client in clients), "the cluster")
        yield Servers("redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports), [p.pid for p in processes])
        supervisor.stop(*processes, within_seconds=5)


@contextmanager
def single_server(supervisor: Supervisor) -> Iterator[Servers]:
    """One server without cluster mode."""
    with EmbeddedRedis.temporary(supervisor=supervisor) as server:
        assert server.pid is not None
        yield Servers(server.url, [server.pid])


def cost(supervisor: Supervisor, servers: Servers, workers: int, runs: int) -> Cost:
    """Run this many chains of ten steps."""
    with EmbeddedRedis.temporary(supervisor=supervisor) as broker:
        settings = Settings.from_environment(redis_url=servers.url, broker_url=broker.url, shards=_SHARDS)
        fleet = Fleet(settings, supervisor, workers, "asyncio", None, SHAPES_UMBEL)
        with connected(settings) as runtime:
            fleet.start(runtime)
            _chains(runtime, _SHARDS)  # then every server has loaded the functions
            fleet_pids = [each.pid for each in runtime.portal.call(seen_workers(runtime.store)) if each.is_live]
            watched = [fleet_pids, *([pid] for pid in servers.pids)]
            before = [processor_seconds(pids) or 0.0 for pids in watched]
            _chains(runtime, runs)
            after = [processor_seconds(pids) or 0.0 for pids in watched]
            fleet.kill()
    steps = runs * CHAIN_STEPS
    used = [(late - early) / steps * 1e6 for early, late in zip(before, after, strict=True)]
    return Cost(used[0], used[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cluster", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_500, metavar="N", help="chains of ten steps (default 1,500)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="workers (default 2)")
    parser.add_argument("--primaries", type=int, nargs="*", default=[1, 2, 3], metavar="N", help="default 1 2 3")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, only to see that everything works")
    options = parser.parse_args(arguments)
    runs = 20 if options.quick else options.runs
    print(f"{'state':<14}{'workers':>15}{'all servers':>15}{'busiest':>10}")
    with Supervisor() as supervisor:
        with single_server(supervisor) as servers:
            print(cost(supervisor, servers, options.processes, runs).row("one server"), flush=True)
        for primaries in options.primaries:
            tell(f"starting a cluster of {primaries}")
            with cluster(supervisor, primaries) as servers:
                name = f"{primaries} {'primary' if primaries == 1 else 'primaries'}"
                print(cost(supervisor, servers, options.processes, runs).row(name), flush=True)


def _chains(runtime: Runtime, runs: int) -> None:
    flow = Chain(runtime=runtime, timeout=600)
    for handler in [flow.start() for _ in range(runs)]:
        handler.result(PATIENCE_SECONDS)


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def _is_whole(client: Any, primaries: int) -> bool:
    found = client.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in found and f"cluster_known_nodes:{primaries}\r".encode() in found


if __name__ == "__main__":
    main()

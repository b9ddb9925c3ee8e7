"""A Redis Cluster of the bundled server: primaries, and a replica for each if requested."""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from support.eventually import eventually
from umbel.orchestration.connection.cluster import Slots, slots_in
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.supervisor import Supervisor

_SLOTS = 16384


class ClusterUnderTest:
    """Servers on loopback that form one cluster; all share one password."""

    def __init__(self, folder: Path, supervisor: Supervisor, *, primaries: int = 3, replicated: bool = False) -> None:
        self.folder, self._supervisor = folder, supervisor
        self.password = secrets.token_hex(8)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._away: set[int] = set()
        self._configs: dict[int, Path] = {}
        self._buses: dict[int, int] = {}
        ports = [self._begin() for _ in range(2 * primaries if replicated else primaries)]
        self.primaries, self.replicas = ports[:primaries], ports[primaries:]
        for port in ports:
            eventually(lambda: self._answers(port), f"the node at {port} answers")  # noqa: B023
        edges = [_SLOTS * part // primaries for part in range(primaries + 1)]
        for epoch, (port, (first, end)) in enumerate(zip(self.primaries, pairwise(edges), strict=True), 1):
            self.ask(port, "CLUSTER", "SET-CONFIG-EPOCH", epoch)
            self.ask(port, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for port in self.ports[1:]:
            self.ask(self.ports[0], "CLUSTER", "MEET", "127.0.0.1", port, self._buses[port])
        eventually(lambda: all(map(self._knows_all, self.ports)), "each node knows the others")
        for port, primary in zip(self.replicas, self.primaries, strict=False):
            self.ask(port, "CLUSTER", "REPLICATE", self.id_of(primary))
        eventually(lambda: all(map(self.is_ok, self.ports)), "the cluster is well")
        eventually(lambda: all(map(self.follows, self.replicas)), "the replicas follow")

    @property
    def ports(self) -> list[int]:
        """The ports of all nodes."""
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        """The URL for umbel."""
        return self.url_for("", self.password)

    def url_for(self, user: str, password: str) -> str:
        """Return the URL for an ACL user."""
        nodes = ",".join(f"127.0.0.1:{port}" for port in self.primaries)
        return f"redis+cluster://{user}:{password}@{nodes}/0"

    def ask(self, port: int, *command: Any) -> Any:
        """Return a node's reply to a command."""
        with Redis(port=port, password=self.password, socket_timeout=2) as client:
            return client.execute_command(*command)

    def id_of(self, port: int) -> str:
        """Return a node's cluster id."""
        found: bytes = self.ask(port, "CLUSTER", "MYID")
        return found.decode()

    def owner_of(self, slot: int) -> int:
        """Return the port of the primary that owns a slot, according to a node that is neither killed nor paused."""
        return next(each.primary[1] for each in self._slots() if each.first <= slot <= each.last)

    def replica_of(self, port: int) -> int:
        """Return the port of a primary's replica."""
        (found,) = self.ask(port, "ROLE")[2]
        return int(found[1])

    def living_primaries(self) -> set[int]:
        """Return the ports of the primaries that own slots."""
        return {each.primary[1] for each in self._slots()}

    def _slots(self) -> list[Slots]:
        at = next(port for port in self.ports if port not in self._away)
        with Redis(port=at, password=self.password, socket_timeout=2) as client:
            connection = client.connection_pool.get_connection()
            connection.send_command("CLUSTER", "SLOTS")
            return slots_in(connection.read_response(disable_decoding=True), ("127.0.0.1", at))

    def await_replicas(self, port: int) -> int:
        """Wait until a replica has the last write to a node; returns how many have it."""
        return int(self.ask(port, "WAIT", 1, 1_500))

    def move(self, slot: int, source: int, target: int, between: Callable[[], object] = lambda: None) -> None:
        """Move a slot to another primary key by key, as `redis-cli --cluster reshard` does.

        `between` is called after the first batch of keys has moved.
        """
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
        moved = 0
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            self.ask(source, "MIGRATE", "127.0.0.1", target, "", 0, 2_000, "AUTH", self.password, "KEYS", *keys)
            moved += 1
            if moved == 1:
                between()
        for port in (target, source, *self.living_primaries()):
            self.ask(port, "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def move_whole(self, slot: int, source: int, target: int) -> None:
        """Move a slot to another primary in one step, as Valkey 9 can."""
        self.ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.id_of(target))
        eventually(lambda: self.owner_of(slot) == target, "the slot has moved")

    def kill(self, port: int) -> None:
        """SIGKILL."""
        self._away.add(port)
        self._processes[port].send_signal(signal.SIGKILL)
        self._processes[port].wait()

    def pause(self, port: int) -> None:
        """SIGSTOP, like a virtual machine that is paused."""
        self._away.add(port)
        self._processes[port].send_signal(signal.SIGSTOP)

    def resume(self, port: int) -> None:
        """SIGCONT."""
        self._processes[port].send_signal(signal.SIGCONT)
        self._away.remove(port)

    def start(self, port: int) -> None:
        """Restart a node that was killed."""
        self._spawn(port)
        eventually(lambda: self._answers(port), f"the node at {port} answers")
        self._away.discard(port)

    def _begin(self) -> int:
        port = free_port()
        self._buses[port] = free_port()
        self._configure(port)
        self._spawn(port)  # at once, before another process takes the ports
        return port

    def _spawn(self, port: int) -> None:
        with open(self.folder / f"{port}.log", "a") as log:
            command = [str(find_server(search_path="")), str(self._configs[port])]
            self._processes[port] = self._supervisor.spawn(command, cwd=self.folder, output=log.fileno())

    def close(self) -> None:
        """Stop all nodes."""
        self._supervisor.stop(*self._processes.values(), within_seconds=5)

    def is_ok(self, port: int) -> bool:
        """Return whether a node accepts commands: as far as it knows, all slots are served."""
        try:
            return b"cluster_state:ok" in self.ask(port, "CLUSTER", "INFO")
        except RedisError:
            return False

    def _configure(self, port: int) -> None:
        self._configs[port] = self.folder / f"{port}.conf"
        self._configs[port].write_text(
            f"bind 127.0.0.1\nport {port}\ncluster-enabled yes\ncluster-port {self._buses[port]}\n"
            f"cluster-config-file nodes-{port}.conf\ncluster-node-timeout 1000\ncluster-require-full-coverage no\n"
            f"dir {self.folder}\nrequirepass {self.password}\nmasterauth {self.password}\nmaxmemory-policy noeviction\n"
            f"appendonly yes\nappenddirname aof{port}\ndbfilename {port}.rdb\nrepl-diskless-sync-delay 0\n"
        )

    def _answers(self, port: int) -> bool:
        assert self._processes[port].poll() is None, (self.folder / f"{port}.log").read_text()
        try:
            return bool(self.ask(port, "PING"))
        except RedisError:
            return False

    def _knows_all(self, port: int) -> bool:
        return f"cluster_known_nodes:{len(self.ports)}\r".encode() in self.ask(port, "CLUSTER", "INFO")

    def follows(self, port: int) -> bool:
        """Return whether a node is a replica that is in sync."""
        with Redis(port=port, password=self.password, decode_responses=True) as client:
            found: Any = client.info("replication")
        return bool(found.get("master_link_status") == "up")

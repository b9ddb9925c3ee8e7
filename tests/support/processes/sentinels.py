"""A primary, a replica, and three sentinels that monitor them, all running the bundled server."""

from __future__ import annotations

import secrets
import signal
import subprocess
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from support.eventually import eventually
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.supervisor import Supervisor

NAME = "main"


class Watched:
    """Two servers and their sentinels, on loopback; all share one password."""

    def __init__(self, folder: Path, supervisor: Supervisor) -> None:
        self.folder, self._supervisor = folder, supervisor
        self.password = secrets.token_hex(8)
        self.ports = [free_port(), free_port()]
        self.sentinel_ports = [free_port() for _ in range(3)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for port in self.ports:
            self._start_server(port)
        eventually(lambda: self._ask(self.ports[1])["master_link_status"] == "up", "the replica follows")
        for port in self.sentinel_ports:
            self._start_sentinel(port)
        eventually(lambda: all(map(self._knows_all, self.sentinel_ports)), "each sentinel knows the others")

    @property
    def url(self) -> str:
        """The URL for umbel."""
        nodes = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"sentinel://:{self.password}@{nodes}/{NAME}/0?sentinel_password={self.password}"

    @property
    def primary_port(self) -> int:
        """Port of the server that the first live sentinel reports as primary."""
        for port in self.sentinel_ports:
            try:
                return int(self._client(port).sentinel_get_master_addr_by_name(NAME)[1])
            except RedisError:
                continue
        raise AssertionError("no sentinel lives")

    def kill(self, port: int) -> None:
        """SIGKILL."""
        self._processes[port].send_signal(signal.SIGKILL)
        self._processes[port].wait()

    def pause(self, port: int) -> None:
        """SIGSTOP, like a virtual machine that is paused."""
        self._processes[port].send_signal(signal.SIGSTOP)

    def resume(self, port: int) -> None:
        """SIGCONT."""
        self._processes[port].send_signal(signal.SIGCONT)

    def follows(self, port: int) -> bool:
        """Return whether a server is a replica that is in sync."""
        try:
            state = self._ask(port)
        except RedisError:  # it closes its connections when it becomes one
            return False
        return bool(state["role"] == "slave" and state["master_link_status"] == "up")

    def close(self) -> None:
        """Stop all of them."""
        self._supervisor.stop(*self._processes.values(), within_seconds=5)

    def failed_over_to(self, port: int) -> bool:
        """Return whether this server is the primary, and reports itself as such."""
        return self.primary_port == port and self._ask(port)["role"] == "master"

    def _spawn(self, port: int, text: str, *options: str) -> None:
        file = self.folder / f"{port}.conf"
        file.write_text(f"bind 127.0.0.1\nport {port}\ndir {self.folder}\nrequirepass {self.password}\n{text}")
        with open(self.folder / f"{port}.log", "w") as log:
            command = [str(find_server(search_path="")), str(file), *options]
            self._processes[port] = self._supervisor.spawn(command, cwd=self.folder, output=log.fileno())
        eventually(lambda: self._answers(port), f"the server at {port} answers")

    def _start_server(self, port: int) -> None:
        follows = "" if port == self.ports[0] else f"replicaof 127.0.0.1 {self.ports[0]}\n"
        self._spawn(
            port,
            f"{follows}masterauth {self.password}\nappendonly yes\nappenddirname aof{port}\ndbfilename {port}.rdb\n"
            "repl-diskless-sync-delay 0\nmaxmemory-policy noeviction\n",
        )

    def _start_sentinel(self, port: int) -> None:
        self._spawn(
            port,
            f"sentinel monitor {NAME} 127.0.0.1 {self.ports[0]} 2\nsentinel auth-pass {NAME} {self.password}\n"
            f"sentinel sentinel-pass {self.password}\nsentinel down-after-milliseconds {NAME} 1000\n"
            f"sentinel failover-timeout {NAME} 5000\n",
            "--sentinel",
        )

    def _client(self, port: int) -> Any:
        options: dict[str, Any] = {"socket_timeout": 2, "retry": Retry(NoBackoff(), 0)}
        return Redis(port=port, password=self.password, decode_responses=True, **options)

    def _answers(self, port: int) -> bool:
        assert self._processes[port].poll() is None, (self.folder / f"{port}.log").read_text()
        try:
            return bool(self._client(port).ping())
        except RedisError:
            return False

    def _ask(self, port: int) -> dict[str, Any]:
        found: dict[str, Any] = self._client(port).info("replication")
        return found

    def _knows_all(self, port: int) -> bool:
        state = self._client(port).sentinel_master(NAME)
        return int(state["num-other-sentinels"]) == 2 and int(state["num-slaves"]) == 1

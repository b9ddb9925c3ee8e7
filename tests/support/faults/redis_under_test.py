"""A Redis of one test, with its append-only file, to be killed, cut off from power, frozen and started again."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from umbel.orchestration.connection.redis_client import connect
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor


class RedisUnderTest:
    """One server in one folder; it keeps its address from one life to the next."""

    def __init__(self, folder: Path, supervisor: Supervisor) -> None:
        self.folder, self._supervisor = folder, supervisor
        self._server = self._started()

    def _started(self) -> EmbeddedRedis:
        server = EmbeddedRedis.in_folder(self.folder, supervisor=self._supervisor).start()
        # With `everysec` Redis holds writes back, for two seconds at most, while the disk is slow: a kill then loses
        # what was acknowledged, as documented. What is tested here must lose nothing.
        connect(server.url).config_set("appendfsync", "always")
        return server

    @property
    def url(self) -> str:
        """Where it is, in all its lives."""
        return self._url if self._server is None else self._server.url

    @property
    def pid(self) -> int:
        """Of the server process."""
        assert self._server is not None
        assert self._server.pid is not None
        return self._server.pid

    def kill(self) -> None:
        """SIGKILL; what the kernel had been given is on disk."""
        assert self._server is not None
        self._url = self._server.url
        os.kill(self.pid, signal.SIGKILL)
        self._server.close()
        self._server = None

    def start(self) -> None:
        """Start it again on what it has on disk."""
        assert self._server is None
        self._server = self._started()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def log_file(self) -> Path:
        """The append-only file that is being written."""
        return max(self.folder.glob("appendonlydir/*.incr.aof"), key=lambda part: part.stat().st_mtime)

    def power_cut(self, log_bytes: int) -> None:
        """Kill it, and take back all it wrote to its log beyond so many bytes, as if the disk had not got that."""
        self.kill()
        os.truncate(self.log_file, min(log_bytes, self.log_file.stat().st_size))

    def lose_everything(self) -> None:
        """Kill it and remove its data."""
        self.kill()
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        (self.folder / "dump.rdb").unlink(missing_ok=True)

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self.thaw()
            self._server.close()

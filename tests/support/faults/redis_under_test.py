"""A Redis for one test, with an append-only file, that can be killed, power-cut, frozen and restarted."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from umbel.orchestration.connection.redis_client import connect
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor


class RedisUnderTest:
    """One server in one folder; it keeps its address across restarts."""

    def __init__(self, folder: Path, supervisor: Supervisor) -> None:
        self.folder, self._supervisor = folder, supervisor
        self._server = self._started()

    def _started(self) -> EmbeddedRedis:
        server = EmbeddedRedis.in_folder(self.folder, supervisor=self._supervisor).start()
        # With `everysec` Redis delays writes by up to two seconds while the disk is slow: a kill then loses
        # acknowledged writes, as documented. These tests must not lose any.
        connect(server.url).config_set("appendfsync", "always")
        return server

    @property
    def url(self) -> str:
        """Its address, the same across restarts."""
        return self._url if self._server is None else self._server.url

    @property
    def pid(self) -> int:
        """PID of the server process."""
        assert self._server is not None
        assert self._server.pid is not None
        return self._server.pid

    def kill(self) -> None:
        """SIGKILL; everything already passed to the kernel reaches the disk."""
        assert self._server is not None
        self._url = self._server.url
        os.kill(self.pid, signal.SIGKILL)
        self._server.close()
        self._server = None

    def start(self) -> None:
        """Start it again with the data on disk."""
        assert self._server is None
        self._server = self._started()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and get no replies."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def log_file(self) -> Path:
        """The append-only file currently being written."""
        return max(self.folder.glob("appendonlydir/*.incr.aof"), key=lambda part: part.stat().st_mtime)

    def power_cut(self, log_bytes: int) -> None:
        """Kill it and truncate its log to this many bytes, as if the rest had not reached the disk."""
        self.kill()
        os.truncate(self.log_file, min(log_bytes, self.log_file.stat().st_size))

    def lose_everything(self) -> None:
        """Kill it and remove its data."""
        self.kill()
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        (self.folder / "dump.rdb").unlink(missing_ok=True)

    def close(self) -> None:
        """Shut it down."""
        if self._server is not None:
            self.thaw()
            self._server.close()

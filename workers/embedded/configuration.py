"""The configuration that an embedded server is started with, and what the server reports about itself."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

LOOPBACK = "127.0.0.1"

#: Ports for servers. Outgoing connections use higher ones, from 32,768 on Linux and from 49,152 on macOS.
_LISTENING_PORTS = range(10_000, 32_768)
#: How many of them are tried before the system is asked for any port.
_PORTS_LOOKED_AT = 100

#: Seconds a server may take for one answer. While loading it answers every few megabytes.
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens on the loopback interface, and its password."""

    port: int
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """The URL for clients, including the password."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago.

    If possible, it is not one that the system gives to outgoing connections. Otherwise a server that died could find
    its port taken by any client of any program when it is started again.
    """
    for port in [*secrets.SystemRandom().sample(_LISTENING_PORTS, _PORTS_LOOKED_AT), 0]:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((LOOPBACK, port))
            bound: int = listener.getsockname()[1]
            return bound
    raise OSError(f"No port of {LOOPBACK} is free, or this process may not open another socket.")


@dataclass(frozen=True, slots=True)
class RunningServer:
    """What the server at an address reports about itself."""

    pid: int
    folder: Path
    is_loading: bool


def write_configuration(path: Path, address: Address, *, append_only: bool) -> None:
    """Write a server's configuration atomically, readable by this user only.

    The server's folder is its working folder, so no path has to be quoted.
    """
    lines = [
        "# Written by umbel at every start of this server; changes are lost.",
        f"bind {LOOPBACK}",
        f"port {address.port}",
        f"requirepass {address.password}",
        "protected-mode yes",
        "daemonize no",
        "pidfile server.pid",
        'logfile ""',
        "maxmemory-policy noeviction",
        'save ""',
        f"appendonly {'yes' if append_only else 'no'}",
        "stream-node-max-bytes 2048",  # a run has three streams, mostly short; each takes 4 kB by default
        "appendfsync everysec",
    ]
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
    fresh.replace(path)


def read_address(path: Path) -> Address | None:
    """The address in a configuration that `write_configuration` wrote; None if there is none, or it is damaged."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    port = re.search(r"^port (\d{1,5})$", text, re.MULTILINE)
    password = re.search(r"^requirepass ([0-9a-f]{32,})$", text, re.MULTILINE)
    if port is None or password is None:
        return None
    return Address(int(port[1]), password[1])


def ask(address: Address) -> RunningServer | None:
    """Ask the server at an address for its identity; None if no server answers or it refuses the password."""
    client = redis.Redis(
        host=LOOPBACK,
        port=address.port,
        password=address.password,
        socket_timeout=_ANSWER_SECONDS,
        socket_connect_timeout=_ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        decode_responses=True,
        encoding_errors="surrogateescape",
    )
    with client:
        try:
            pid = int(client.info("server")["process_id"])
            folder = Path(str(client.config_get("dir")["dir"]))
            try:
                is_loading = not client.ping()
            except redis.BusyLoadingError:
                is_loading = True
        except (redis.RedisError, OSError, KeyError, ValueError):
            return None
    return RunningServer(pid, folder, is_loading)

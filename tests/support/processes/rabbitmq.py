"""A RabbitMQ for the tests alone: its node, ports and files are separate from any other on the machine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kombu

from support.eventually import eventually
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.supervisor import Supervisor

#: Debian's wrapper in /usr/sbin changes user and folder; this is the program behind it.
_BEHIND_WRAPPER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def find_rabbitmq() -> Path | None:
    """Return the server program, if it is installed."""
    if _BEHIND_WRAPPER.exists():
        return _BEHIND_WRAPPER
    found = shutil.which("rabbitmq-server")
    return None if found is None else Path(found)


@contextmanager
def rabbitmq(program: Path, folder: Path, supervisor: Supervisor) -> Iterator[str]:
    """Yield its URL once it accepts connections."""
    home = folder / "home"
    home.mkdir()
    (folder / "enabled_plugins").write_text("[].\n")
    port, epmd_port = free_port(), str(free_port())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))} | {
        "HOME": str(home),  # for the cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": epmd_port,
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_NODENAME": f"umbel-{secrets.token_hex(4)}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
    log = os.open(folder / "server.log", os.O_WRONLY | os.O_CREAT, 0o600)
    started: list[subprocess.Popen[bytes]] = []
    try:
        epmd = shutil.which("epmd")
        if epmd is not None:  # otherwise the server starts one itself, which would outlive it
            started.append(supervisor.spawn([epmd, "-port", epmd_port], env=environment, output=log, grace_seconds=1))
        started.append(supervisor.spawn([program], cwd=folder, env=environment, output=log, grace_seconds=1))
        url = f"amqp://guest:guest@127.0.0.1:{port}//"
        server = started[-1]

        def serves() -> bool:
            assert server.poll() is None, f"RabbitMQ ended: {(folder / 'server.log').read_text()[-3000:]}"
            with kombu.Connection(url, connect_timeout=2) as connection:
                try:
                    connection.connect()
                except (OSError, *connection.connection_errors):
                    return False
            return True

        eventually(serves, "RabbitMQ serves", seconds=55)
        yield url
    finally:
        os.close(log)
        for process in reversed(started):
            os.killpg(process.pid, 9)
            process.wait()
            supervisor.forget(process.pid)

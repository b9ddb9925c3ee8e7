"""Redis servers and worker processes of several contenders, for the duration of their measurement."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from umbel import Settings
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor
from umbel.workers.local.command_process import process_environment

from .contender import Contender


@contextmanager
def deployed(contenders: Sequence[Contender]) -> Iterator[None]:
    """Start all and yield once each has answered; afterwards end all of them."""
    with ExitStack() as stack:
        supervisor = stack.enter_context(Supervisor())
        for contender in contenders:
            if contender.has_redis:
                _start(contender, supervisor, stack)
            else:
                stack.callback(contender.close)
        for contender in contenders:
            print(f"starting {contender.name}", file=sys.stderr, flush=True)
            contender.warm_up()
        yield


def _start(contender: Contender, supervisor: Supervisor, stack: ExitStack) -> None:
    server = stack.enter_context(EmbeddedRedis.temporary(supervisor=supervisor))
    environment = process_environment(Settings.from_environment(redis_url=server.url, **contender.settings))
    environment["BENCHMARK_REDIS"] = server.url
    assert server.pid is not None
    contender.server_pid = server.pid
    stack.callback(os.kill, server.pid, signal.SIGKILL)  # its data is discarded; a clean stop takes longer
    stack.callback(contender.close)
    contender.connect(server.url)
    with open(os.devnull, "wb") as silence:
        processes = [
            supervisor.spawn(contender.command(number), env=environment, output=silence.fileno())
            for number in range(contender.processes)
        ]
    stack.callback(_kill, processes, supervisor)
    contender.worker_pids = tuple(process.pid for process in processes)


def _kill(processes: Sequence[subprocess.Popen[bytes]], supervisor: Supervisor) -> None:
    # With their pool children. Their Redis is killed too, so a clean shutdown would save nothing.
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        supervisor.forget(process.pid)

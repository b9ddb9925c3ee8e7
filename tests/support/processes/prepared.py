"""Commands forked from a process that has already imported umbel and the libraries of the command line.

These imports are nearly the whole cost of a short command. Each command is a separate process with its own folder,
environment, streams and end, and imports the rest itself. Background processes of tests (workers, servers, commands on
a terminal) start with nothing imported.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

MODULE = "umbel.workers.cli"
#: Modules that import most of what a command needs.
IMPORTED = (
    "celery.apps.worker",
    "click",
    "kombu.transport.redis",
    "rich.progress",
    "rich.table",
    "umbel.tasks.client.runtime",
    "umbel.workers.celery_app.app",
)


@cache
def _origin() -> socket.socket:
    """Return the socket for fork requests. The process that receives them ends with this one, however this one ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = [sys.executable, str(Path(__file__)), str(theirs.fileno())]
    process = subprocess.Popen(program, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()

    def end() -> None:
        ours.close()
        process.terminate()
        process.wait()

    atexit.register(end)
    return ours


def run_prepared(
    arguments: list[str], folder: Path, environment: dict[str, str], streams: list[IO[bytes]], timeout: float
) -> int:
    """Run `umbel` with these standard streams to its end; return its exit code, negative for a signal.

    Raises:
        subprocess.TimeoutExpired: It took longer and was killed.
    """
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as replies:
        request = json.dumps([arguments, str(folder), environment]).encode()
        socket.send_fds(_origin(), [request], [*(stream.fileno() for stream in streams), writing])
        os.close(writing)
        pid = int(replies.readline())
        ended = select.poll()  # not select(), which is limited to descriptors below 1024
        ended.register(replies, select.POLLIN)
        if not ended.poll(1000 * timeout):
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(arguments, timeout)
        return int(replies.readline())


def _serve(requests: socket.socket) -> None:
    """Fork a command for each request; returns only in the forked process."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, 1_000_000, 4)
        if not request:
            sys.exit()
        with suppress(ChildProcessError):  # no children are left to reap
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            requests.close()
            _watch(descriptors[3], descriptors[:3])
            arguments, folder, environment = json.loads(request)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            time.tzset()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.path[0] = folder
            sys.argv[1:] = arguments
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(reply: int, streams: list[int]) -> None:
    """Fork the command itself and report its pid and its exit code; returns only in the command."""
    command = os.fork()
    if command == 0:
        os.close(reply)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return
    os.write(reply, b"%d\n" % command)
    _, status = os.waitpid(command, 0)
    os.write(reply, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the tests, and this process without a traceback
    gc.freeze()  # otherwise each fork copies these pages when it exits, since Python then visits all objects
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)

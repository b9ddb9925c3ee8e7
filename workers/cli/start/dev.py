"""`umbel dev`: a whole deployment in one terminal."""

from __future__ import annotations

import importlib.util
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

import click

from ....orchestration.model.errors import ConfigurationError
from ....tasks.llama_index.install import is_installed
from ....tasks.workflow.registry import Registry
from ....tasks.workflow.source import user_files
from ...embedded.folder import state_folder
from ...embedded.supervisor import Supervisor
from ...local.command_process import CommandProcess, WorkerProcess
from ..deployment.existing import configured, embedded
from ..deployment.options import app_name, deployment_options
from ..interrupts import next_interrupt_ends
from ..targets import llama_index_option, load_targets, parse_target
from .log_format import LogFormat, log_format_option, printer
from .reload import Programs, Show, Watch
from .worker import given_targets, loglevel_option, targets_argument, worker_options

#: Default ports of server and Flower, and how many ports from there on are tried.
_SERVER_PORT, _FLOWER_PORT, _PORTS_TRIED = 8080, 5555, 50
#: Interval at which the processes and files are checked.
_POLL_SECONDS = 0.2
#: How long running steps may take after Ctrl-C.
_INTERRUPTED_SECONDS = 1.5


@click.command()
@targets_argument
@worker_options
@click.option(
    "--port", type=click.IntRange(1, 65535), help=f"Server port. Default: {_SERVER_PORT}, or the next free one."
)
@click.option("--no-server", is_flag=True, help="Do not start the HTTP server.")
@click.option("--flower", is_flag=True, help="Also start Flower, Celery's monitor.")
@click.option(
    "--flower-port", type=click.IntRange(1, 65535), help=f"Flower port. Default: {_FLOWER_PORT}, or the next free one."
)
@click.option(
    "--reload/--no-reload",
    default=True,
    show_default=True,
    help="Restart worker and server when a Python file of the project changes.",
)
@loglevel_option("INFO")
@log_format_option
@llama_index_option
@deployment_options
def dev(
    targets: tuple[str, ...],
    pool: str,
    concurrency: int | None,
    queues: str | None,
    task_events: bool,
    port: int | None,
    no_server: bool,
    flower: bool,
    flower_port: int | None,
    reload: bool,
    loglevel: str,
    log_format: LogFormat,
    redis_url: str | None,
    state: str | None,
) -> None:
    """Run an embedded Redis, a worker for TARGET… and the HTTP server with its console until Ctrl-C.

    Worker and server restart when the code changes: running steps end with the code they began with. Runs are kept in
    the project's state folder; start and watch them on the console page, or from another terminal with `umbel
    start`, `umbel show`, `umbel events`. With --redis or UMBEL_REDIS_URL, that Redis is used instead.
    """
    say = printer(log_format)
    given = given_targets(targets)
    registry = Registry()
    for each in load_targets(given):
        registry.add(each)  # reports mistakes once, before anything is started
    has_server = not no_server and _is_installed("starlette", "uvicorn")
    if flower and not _is_installed("flower"):
        raise ConfigurationError("Flower is not installed. Install it with: pip install 'umbel[flower]'")
    settings = configured(redis_url)
    own = ["--app", name] if (name := app_name()) is not None else []
    logs = ["--loglevel", loglevel, "--log-format", log_format, *own]
    with ExitStack() as stack, _ended_by_sigterm():
        if settings.redis_url is None:
            settings, supervisor = stack.enter_context(embedded(settings, state))
            say(f"Runs are kept in {state_folder(state)}. Press Ctrl-C to stop; nothing is lost.")
        else:
            supervisor = stack.enter_context(Supervisor())
        options = [*logs, *(["--queues", queues] if queues else []), *(["-E"] if task_events else [])]

        def worker(show: Show) -> CommandProcess:
            return WorkerProcess(
                settings, given, supervisor, pool=pool, concurrency=concurrency, options=options, say=show
            )

        running: Programs | None = None
        try:
            watch = Watch({*(file.parent for file in user_files()), *_roots(given)}) if reload else None
            running = stack.enter_context(Programs(watch, say))
            running.start(worker)
            if has_server:
                # The socket listens before the server starts: early requests wait, and no other process takes the port.
                listening = stack.enter_context(closing(_listen(port, _SERVER_PORT, "--port")))
                fd = listening.fileno()
                arguments = [*given, *logs, "--fd", str(fd), *(["--llama-index"] if is_installed() else [])]
                running.start(
                    lambda show: CommandProcess(settings, "serve", arguments, supervisor, say=show, pass_fds=[fd])
                )
                say(f"Console and HTTP API: http://127.0.0.1:{listening.getsockname()[1]}")
            elif not no_server:
                say("The HTTP server and its console are not installed: pip install 'umbel[server]'")
            if flower:
                with closing(_listen(flower_port, _FLOWER_PORT, "--flower-port")) as tried:
                    found = tried.getsockname()[1]  # Flower accepts no socket
                flower_options = ["--port", str(found), *own]
                running.start(
                    lambda show: CommandProcess(settings, "flower", flower_options, supervisor, say=show),
                    has_code=False,
                )
            say(f"Start a run from another terminal with: umbel start {given[0]} key=value")
            while True:
                running.look()
                time.sleep(_POLL_SECONDS)
        except _Terminated:
            say("Waiting for running steps.")
        except KeyboardInterrupt:
            next_interrupt_ends()
            say("Stopping. Steps that do not end now run again with the next worker.")
            if running is not None:
                running.end(within_seconds=_INTERRUPTED_SECONDS)


def _roots(targets: Sequence[str]) -> Iterator[Path]:
    for text in targets:
        yield parse_target(text).root


def _is_installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def _listen(wanted: int | None, first: int, option: str) -> socket.socket:
    """A socket on the wanted port, or on the first free one.

    Raises:
        ConfigurationError: The wanted port, or every port that was tried, is in use.
    """
    for port in [wanted] if wanted is not None else range(first, first + _PORTS_TRIED):
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    ports = str(wanted) if wanted is not None else f"{first} to {first + _PORTS_TRIED - 1}"
    raise ConfigurationError(f"Port {ports} is in use on this machine. Choose another one with {option}.")


class _Terminated(KeyboardInterrupt):
    """Raised on SIGTERM: running steps may finish."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `_Terminated` within the block, which stops everything that was started."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

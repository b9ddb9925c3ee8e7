"""`umbel dev`: a whole deployment in one terminal."""

from __future__ import annotations

import importlib.util
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from types import FrameType

import click

from ....orchestration.model.errors import ConfigurationError
from ...embedded.folder import state_folder
from ...embedded.supervisor import Supervisor
from ...local.command_process import CommandProcess, WorkerProcess
from ..deployment import configured, deployment_options, embedded
from ..log_format import LogFormat
from ..log_options import log_format_option, pass_on, teller
from ..targets import load_targets
from .worker import given_targets, loglevel_option, targets_argument, worker_options

#: Where server and Flower listen unless it is said, and how many ports further on are tried.
_SERVER_PORT, _FLOWER_PORT, _PORTS_TRIED = 8080, 5555, 50
_LOOK_SECONDS = 0.2


@click.command()
@targets_argument
@worker_options
@click.option(
    "--port", type=click.IntRange(1, 65535), help=f"Of the server; else {_SERVER_PORT}, or the next free one."
)
@click.option("--no-server", is_flag=True, help="Start no HTTP server.")
@click.option("--flower", is_flag=True, help="Start Flower, Celery's monitor, too.")
@click.option(
    "--flower-port", type=click.IntRange(1, 65535), help=f"Of Flower; else {_FLOWER_PORT}, or the next free one."
)
@loglevel_option("INFO")
@log_format_option
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
    loglevel: str,
    log_format: LogFormat,
    redis_url: str | None,
    state: str,
) -> None:
    """Serve TARGET… in this terminal until Ctrl-C: an embedded Redis, a worker, and the HTTP server with its console.

    Runs are kept in a state folder; start and watch them on the console page, or from another terminal with `umbel
    start`, `umbel show`, `umbel events`. With a Redis (--redis, UMBEL_REDIS_URL) none is embedded.
    """
    say = teller(log_format)
    given = given_targets(targets)
    load_targets(given)  # what is wrong with them is better told before anything is started
    has_server = not no_server and _is_installed("starlette", "uvicorn")
    if flower and not _is_installed("flower"):
        raise ConfigurationError("Flower is not installed. Install it with: pip install 'umbel[flower]'")
    settings = configured(redis_url)
    logs = ["--loglevel", loglevel, "--log-format", log_format]
    with ExitStack() as stack, _ended_by_sigterm():
        if settings.redis_url is None:
            settings, supervisor = stack.enter_context(embedded(settings, state))
            say(f"Runs are kept in {state_folder(state)}. Ctrl-C ends this; nothing is lost.")
        else:
            supervisor = stack.enter_context(Supervisor())
        options = [*logs, *(["--queues", queues] if queues else []), *(["-E"] if task_events else [])]
        started: list[CommandProcess] = []

        def start(process: CommandProcess) -> None:
            started.append(stack.enter_context(process))

        try:
            start(
                WorkerProcess(
                    settings, given, supervisor, pool=pool, concurrency=concurrency, options=options, say=pass_on
                )
            )
            if has_server:
                # It listens before the server does: who calls early waits, and nobody takes the port meanwhile.
                listening = stack.enter_context(closing(_listen(port, _SERVER_PORT, "--port")))
                fd = listening.fileno()
                arguments = [*given, *logs, "--fd", str(fd)]
                start(CommandProcess(settings, "serve", arguments, supervisor, say=pass_on, pass_fds=[fd]))
                say(f"Console and HTTP API: http://127.0.0.1:{listening.getsockname()[1]}")
            elif not no_server:
                say("The HTTP server and its console are not installed: pip install 'umbel[server]'")
            if flower:
                with closing(_listen(flower_port, _FLOWER_PORT, "--flower-port")) as tried:
                    found = tried.getsockname()[1]  # Flower takes no socket
                start(CommandProcess(settings, "flower", ["--port", str(found)], supervisor, say=pass_on))
            say(f"Start a run from another terminal with: umbel start {given[0]} key=value")
            while all(process.process.poll() is None for process in started):
                time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            say("Running steps may finish …")
            return
        for process in started:
            process.check()


def _is_installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def _listen(wanted: int | None, first: int, option: str) -> socket.socket:
    """A socket on the port that was asked for, or on the first free one.

    Raises:
        ConfigurationError: The wanted port is taken, or all that were tried.
    """
    for port in [wanted] if wanted is not None else range(first, first + _PORTS_TRIED):
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    ports = str(wanted) if wanted is not None else f"{first} to {first + _PORTS_TRIED - 1}"
    raise ConfigurationError(f"Port {ports} of this machine is in use. Choose another one with {option}.")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: everything that was started is stopped on the way."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

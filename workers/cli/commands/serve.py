"""`umbel serve`: workflows over HTTP, with a console page."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from types import FrameType
from typing import Any

import click

from ....orchestration.model.errors import ConfigurationError, NotConfigured
from ....tasks.client.runtime import Runtime, set_default_runtime
from ...embedded.supervisor import Supervisor
from ...local.command_process import WorkerProcess
from ..deployment import configured
from ..log_format import LogFormat
from ..log_options import log_format_option, pass_on, teller
from .worker import concurrency_option, given_targets, loglevel_option, pool_option, targets_argument

try:
    import uvicorn

    from ....server import WorkflowServer
    from ..serving_targets import Loaded, load_server
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"The HTTP server is not installed ({missing.name} is missing). Install it with: pip install 'umbel[server]'"
    ) from missing


@click.command()
@targets_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond this machine: --token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free.")
@click.option(
    "--token",
    envvar="UMBEL_SERVER_TOKEN",
    help="What callers have to show as `Authorization: Bearer`; better UMBEL_SERVER_TOKEN: others see command lines.",
)
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="A name it may be asked for as.")
@click.option(
    "--allowed-origin", "allowed_origins", multiple=True, metavar="URL", help="A site whose pages may call it."
)
@click.option(
    "--public-path",
    "public_paths",
    multiple=True,
    metavar="PATH",
    default=["/health"],
    show_default=True,
    help="Needs no token, such as /ready for a load balancer.",
)
@click.option("--with-worker", is_flag=True, help="Start a worker for the workflows too; it ends with the server.")
@pool_option
@concurrency_option
@click.option("--fd", type=int, hidden=True, help="A socket that listens already.")
@click.option("--access-log", is_flag=True, help="Tell each request.")
@loglevel_option("INFO")
@log_format_option
@click.option("--redis", "redis_url", metavar="URL", help="The state Redis; else UMBEL_REDIS_URL.")
def serve(
    targets: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    allowed_hosts: tuple[str, ...],
    allowed_origins: tuple[str, ...],
    public_paths: tuple[str, ...],
    with_worker: bool,
    pool: str,
    concurrency: int | None,
    fd: int | None,
    access_log: bool,
    loglevel: str,
    log_format: LogFormat,
    redis_url: str | None,
) -> None:
    """Serve the workflows TARGET… over HTTP; the console page is at /.

    TARGET may also be a module that has a WorkflowServer in it. Any number of servers may serve one deployment. Steps
    are executed by workers (`umbel worker`, or --with-worker). Ctrl-C or SIGTERM ends it; runs go on.
    """
    settings = configured(redis_url)
    if settings.redis_url is None:
        raise NotConfigured(
            "A server needs the Redis of its deployment, and neither --redis nor UMBEL_REDIS_URL names one. Set "
            "UMBEL_REDIS_URL=redis://host:6379/0; or, to try things out without any set-up, use `umbel dev TARGET`."
        )
    say = teller(log_format)
    runtime = Runtime(settings)
    set_default_runtime(runtime)
    options: dict[str, Any] = {
        "token": token,
        "allowed_hosts": allowed_hosts or None,
        "allowed_origins": allowed_origins,
        "public_paths": public_paths,
    }
    loaded = load_server(given_targets(targets), lambda: WorkflowServer(runtime=runtime, **options))
    if loaded.is_own and token and not loaded.server.is_protected:
        raise ConfigurationError(
            "A token is given, but the WorkflowServer of this program has none and would not ask for it. Give it "
            "there: WorkflowServer(token=os.environ['UMBEL_SERVER_TOKEN'])."
        )
    log_config = _log_config(log_format, loglevel.upper())
    config = loaded.server.uvicorn_config(host, port, {"log_config": log_config, "access_log": access_log})
    with ExitStack() as stack:
        stack.callback(runtime.close)
        listening = stack.enter_context(closing(_listen(host, port) if fd is None else socket.socket(fileno=fd)))
        worker: WorkerProcess | None = None
        if with_worker:
            supervisor = stack.enter_context(Supervisor())
            format_option = ["--loglevel", loglevel, "--log-format", log_format]
            worker = WorkerProcess(
                settings,
                loaded.worker_targets,
                supervisor,
                pool=pool,
                concurrency=concurrency,
                options=format_option,
                say=pass_on,
            )
            stack.enter_context(worker)
        signal.signal(signal.SIGTERM, _interrupt)
        server = _Server(config, lambda: _introduce(loaded, listening, say), worker)
        try:
            asyncio.run(server.serve([listening]))
        except KeyboardInterrupt:
            return
        if worker is not None:
            worker.check()


class _Server(uvicorn.Server):
    """Says when it listens, and ends with its worker."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None], worker: WorkerProcess | None) -> None:
        super().__init__(config)
        self._announce, self._worker = announce, worker

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn's, ten times a second: whether to end."""
        is_alone = self._worker is not None and self._worker.process.poll() is not None
        return is_alone or await super().on_tick(counter)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends as Ctrl-C does: what was started is stopped on the way."""
    raise KeyboardInterrupt


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigurationError: The port is taken, or the address is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise ConfigurationError(
            f"The server cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port (0 takes any "
            "that is free), or end what listens there."
        ) from error


def _introduce(loaded: Loaded, listening: socket.socket, say: Callable[[str], None]) -> None:
    host, port = listening.getsockname()[:2]
    say(f"umbel serve: http://{f'[{host}]' if ':' in host else host}:{port} (the console page and the HTTP API)")
    for name, workflow in loaded.server.get_workflows().items():
        say(f"Serves {workflow.workflow_name} as {name!r}")
    if not loaded.server.is_protected:
        say("No token is set: it answers this machine only.")


def _log_config(log_format: LogFormat, loglevel: str) -> dict[str, Any]:
    """For `logging`: uvicorn's loggers and ours, to standard error."""
    formatters: dict[LogFormat, dict[str, Any]] = {
        "text": {"format": "[%(asctime)s: %(levelname)s/%(name)s] %(message)s"},
        "json": {"()": "umbel.workers.cli.log_format.JsonFormatter"},
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"chosen": formatters[log_format]},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "chosen"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "umbel": {"level": loglevel},
            "uvicorn": {"level": "WARNING" if loglevel == "INFO" else loglevel},
            "uvicorn.access": {"level": "INFO"},
        },
    }

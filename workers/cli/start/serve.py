"""`umbel serve`: workflows over HTTP, with a console page."""

from __future__ import annotations

import asyncio
import logging.config
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from types import FrameType
from typing import Any

import click

from ....orchestration.model.errors import ConfigurationError, NotConfigured
from ....tasks.client.runtime import set_default_runtime
from ...embedded.supervisor import Supervisor
from ...local.command_process import WorkerProcess
from ..deployment.existing import configured, refuse_foreign
from ..deployment.options import app_option
from ..deployment.runtime import runtime_of
from ..output import note
from ..targets import llama_index_option
from .log_format import LogFormat, log_format_option, printer
from .worker import concurrency_option, given_targets, loglevel_option, pool_option, targets_argument

try:
    import uvicorn

    from ....server import WorkflowServer
    from ..serving_targets import LoadedServer, load_server
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"The HTTP server is not installed ({missing.name} is missing). Install it with: pip install 'umbel[server]'"
    ) from missing


@click.command()
@targets_argument
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; any other than loopback requires --token.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 for any free one."
)
@click.option(
    "--token",
    envvar="UMBEL_SERVER_TOKEN",
    help="Clients must send it as `Authorization: Bearer`. Prefer the variable: others can see command lines. "
    "[env var: UMBEL_SERVER_TOKEN]",
)
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="Allowed Host header.")
@click.option("--allowed-origin", "allowed_origins", multiple=True, metavar="URL", help="Allowed CORS origin.")
@click.option(
    "--public-path",
    "public_paths",
    multiple=True,
    metavar="PATH",
    default=["/health"],
    show_default=True,
    help="Path that needs no token, such as /ready for a load balancer.",
)
@click.option("--with-worker", is_flag=True, help="Also start a worker for the workflows; it stops with the server.")
@pool_option
@concurrency_option
@click.option("--fd", type=int, hidden=True, help="A listening socket.")
@llama_index_option
@click.option("--access-log", is_flag=True, help="Log each request.")
@loglevel_option("INFO")
@log_format_option
@click.option("--redis", "redis_url", metavar="URL", help="State Redis. [env var: UMBEL_REDIS_URL]")
@app_option
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

    TARGET may also be a module that defines a WorkflowServer. Any number of servers may serve one deployment. Steps are
    executed by workers (`umbel worker`, or --with-worker). Ctrl-C or SIGTERM stops the server; runs continue.
    """
    settings = configured(redis_url)
    if settings.redis_url is None:
        raise NotConfigured(
            "A server needs the Redis of its deployment, but neither --redis nor UMBEL_REDIS_URL is set. Set "
            "UMBEL_REDIS_URL=redis://host:6379/0; or, to try umbel without any setup, use `umbel dev TARGET`."
        )
    log_config = _log_config(log_format, loglevel.upper())
    logging.config.dictConfig(log_config)  # the check of the deployment may log already
    refuse_foreign(settings)
    say = printer(log_format)
    runtime = runtime_of(settings)
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
            "A token is given, but this program's WorkflowServer has none and would not require it. Set it there: "
            "WorkflowServer(token=os.environ['UMBEL_SERVER_TOKEN'])."
        )
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
                say=note,
            )
            stack.enter_context(worker)
        signal.signal(signal.SIGTERM, _interrupt)
        server = _AnnouncingServer(config, lambda: _introduce(loaded, listening, say), worker)
        try:
            asyncio.run(server.serve([listening]))
        except KeyboardInterrupt:
            return
        if worker is not None:
            worker.check()


class _AnnouncingServer(uvicorn.Server):
    """Announces when it listens, and stops when its worker has ended."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None], worker: WorkerProcess | None) -> None:
        super().__init__(config)
        self._announce, self._worker = announce, worker

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server, then announce it."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; called ten times a second."""
        has_lost_worker = self._worker is not None and self._worker.process.poll() is not None
        return has_lost_worker or await super().on_tick(counter)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM acts like Ctrl-C: what was started is stopped."""
    raise KeyboardInterrupt


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigurationError: The port is in use, or the address does not belong to this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise ConfigurationError(
            f"The server cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port (0 for any "
            "free one), or stop the process that uses it."
        ) from error


def _introduce(loaded: LoadedServer, listening: socket.socket, say: Callable[[str], None]) -> None:
    host, port = listening.getsockname()[:2]
    say(f"umbel serve: http://{f'[{host}]' if ':' in host else host}:{port} (the console page and the HTTP API)")
    for name, workflow in loaded.server.get_workflows().items():
        say(f"Serves {workflow.workflow_name} as {name!r}")
    if not loaded.server.is_protected:
        say("No token is set: only requests from this machine are answered.")


def _log_config(log_format: LogFormat, loglevel: str) -> dict[str, Any]:
    """Configuration of `logging`: uvicorn's and umbel's loggers write to standard error."""
    formatters: dict[LogFormat, dict[str, Any]] = {
        "text": {"format": "[%(asctime)s: %(levelname)s/%(name)s] %(message)s"},
        "json": {"()": "umbel.workers.cli.start.log_format.JsonFormatter"},
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

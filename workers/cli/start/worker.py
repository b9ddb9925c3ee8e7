"""`umbel worker`: a process that executes steps."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

import click
from celery.apps import worker as celery_worker
from celery.exceptions import SecurityWarning
from celery.worker import state as worker_state

from ....orchestration.connection.settings import Settings, redact_url
from ....orchestration.model.errors import NotConfigured, WorkflowValidationError
from ....tasks.workflow.registry import Registry
from ...celery_app.app import Installation, create_app
from ...celery_app.draining import limit_drain
from ...celery_app.recycling import recycle
from ...celery_app.step_output import StepOutput, log_line, print_line
from ...pool.taskpool import DEFAULT_CONCURRENCY
from ..deployment.existing import configured, refuse_foreign
from ..deployment.options import app_option
from ..deployment.own_app import installation
from ..deployment.worker_names import node_name
from ..targets import companions, llama_index_option, load_targets
from .log_format import LogFormat, Seldom, WithoutTraceback, log_as_json, log_format_option, printer

F = TypeVar("F", bound=Callable[..., object])

#: Names of pools -> their names in Celery.
POOLS = {"asyncio": "umbel.workers.pool:AsyncPool", "prefork": "prefork", "threads": "threads", "solo": "solo"}

#: How long a step in an asyncio worker may hold the GIL before other threads, which receive messages, get it.
_SWITCH_SECONDS = 0.001

pool_option = click.option(
    "--pool",
    type=click.Choice(list(POOLS)),
    default="asyncio",
    show_default=True,
    help="How to execute concurrent steps: on an event loop, in processes or in threads.",
)
concurrency_option = click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maximum of concurrent steps. Default: 1000 on an event loop, else the number of processors.",
)
targets_argument = click.argument("targets", nargs=-1, metavar="[TARGET]...", envvar="UMBEL_TARGETS")


def loglevel_option(default: str) -> Callable[[F], F]:
    """Add `--loglevel`."""
    return click.option(
        "--loglevel",
        type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
        default=default,
        envvar="UMBEL_LOG_LEVEL",
        show_default=True,
        help="Log level. [env var: UMBEL_LOG_LEVEL]",
    )


#: Interval of Celery's heartbeat events, which monitors watch; each event states this interval.
_HEARTBEAT_SECONDS = 5.0


def worker_options(command: F) -> F:
    options = (
        click.option(
            "--queues",
            metavar="A,B",
            help="Queues to consume. Default: the default queue and those that the steps name.",
        ),
        click.option("-E", "--task-events", is_flag=True, help="Send Celery's task events, for monitors."),
    )
    for option in options:
        command = option(command)
    return concurrency_option(pool_option(command))


@click.command()
@targets_argument
@worker_options
@click.option("-n", "--name", metavar="NAME", help="Worker name; @HOST is added if it has none. Default: umbel-PID.")
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Exit after this many steps, to be restarted; in the prefork pool, replace each child after this many.",
)
@click.option(
    "--max-memory",
    type=click.IntRange(min=1),
    metavar="MB",
    help="The same, when the process has reached this size.",
)
@loglevel_option("INFO")
@log_format_option
@llama_index_option
@click.option("--quiet", is_flag=True, help="Print only the output of steps, and what needs attention.")
@click.option("--redis", "redis_url", metavar="URL", help="State Redis. [env var: UMBEL_REDIS_URL]")
@app_option
def worker(
    targets: tuple[str, ...],
    pool: str,
    concurrency: int | None,
    queues: str | None,
    task_events: bool,
    name: str | None,
    max_steps: int | None,
    max_memory: int | None,
    loglevel: str,
    log_format: LogFormat,
    quiet: bool,
    redis_url: str | None,
) -> None:
    """Start a worker that executes the steps of the workflows TARGET….

    Any number of workers on any number of machines share the work. Without arguments, UMBEL_TARGETS names the targets.
    After Ctrl-C or SIGTERM, running steps have UMBEL_DRAIN_SECONDS to finish; steps that take longer run again
    elsewhere. Nothing is lost if a worker is killed.
    """
    settings = configured(redis_url)
    if settings.redis_url is None:
        raise NotConfigured(
            "A worker needs the Redis of its deployment, but neither --redis nor UMBEL_REDIS_URL is set. Set "
            "UMBEL_REDIS_URL=redis://host:6379/0; or, to try umbel without any setup, use `umbel dev TARGET`."
        )
    refuse_foreign(settings)
    own = installation()
    if own is None:
        given_targets(targets)
    workflows = load_targets(targets)
    app = create_app(settings, *workflows) if own is None else own.app
    for workflow in workflows if own is not None else ():
        app.umbel.add(workflow)
    consumed = _split(queues) or _queues_of(settings, app.umbel.registry)
    _add_companions(app.umbel, targets)
    if log_format == "json":
        log_as_json()
    # Celery warns root users of pickle, which this app never accepts.
    warnings.simplefilter("ignore", SecurityWarning)
    recycle(app.umbel, max_steps=max_steps, max_memory_mb=max_memory, prefork=pool == "prefork")
    controller = app.Worker(
        hostname=node_name(name or f"umbel-{os.getpid()}"),
        pool_cls=POOLS[pool],
        concurrency=concurrency or (DEFAULT_CONCURRENCY if pool == "asyncio" else None),
        loglevel=loglevel.upper(),
        queues=consumed,
        task_events=task_events or None,
        without_gossip=True,
        without_mingle=True,
        heartbeat_interval=_HEARTBEAT_SECONDS,
        quiet=True,
        redirect_stdouts=False,
    )
    if quiet:
        celery_worker.safe_say = lambda text, file=None: None
        logging.getLogger("umbel.execution").addFilter(lambda record: getattr(record, "action", "") != "step_failed")
    else:
        served = f"umbel worker {controller.hostname} ({pool}, concurrency {controller.concurrency})"
        for line in _introduction(served, consumed, settings, app.umbel.registry):
            printer(log_format)(line)
    for retrying in ("celery.worker.consumer.consumer", "umbel.worker"):
        logging.getLogger(retrying).addFilter(Seldom())
    logging.getLogger("celery.worker").addFilter(WithoutTraceback())
    limit_drain(app, settings.drain_seconds)
    if pool == "asyncio":
        sys.setswitchinterval(_SWITCH_SECONDS)
    sys.__stdout__ = sys.__stderr__  # type: ignore[misc]  # Celery prints its shutdown messages there
    sys.stdout = sys.stderr = StepOutput(print_line if quiet else log_line)
    controller.start()
    # Celery ends with 1 after Ctrl-C although nothing has failed.
    was_asked_to = worker_state.should_stop is not None and worker_state.should_terminate is None
    sys.exit(os.EX_OK if was_asked_to else controller.exitcode)


def _add_companions(installation: Installation, targets: Sequence[str]) -> None:
    """Also serve workflows that steps of the given ones may start, if they can be built; else their work is parked."""
    for workflow in companions(targets):
        if not any(workflow in (served.workflow, type(served.workflow)) for served in installation.registry):
            with suppress(WorkflowValidationError):
                installation.add(workflow)


def given_targets(targets: Sequence[str]) -> list[str]:
    if not targets:
        raise click.UsageError("Missing TARGET, and UMBEL_TARGETS is not set: give the workflows to serve.")
    return list(targets)


def _split(queues: str | None) -> list[str]:
    return [queue for queue in (queues or "").split(",") if queue]


def _queues_of(settings: Settings, registry: Registry) -> list[str]:
    named = {step.queue for registered in registry for step in registered.plan.steps if step.queue}
    return [settings.queue, *sorted(named - {settings.queue})]


def _introduction(served: str, queues: Sequence[str], settings: Settings, registry: Registry) -> Iterator[str]:
    yield f"{served}, queues: {', '.join(queues)}"
    yield f"Redis {redact_url(settings.redis_url or '')}"
    if settings.broker_url:
        yield f"Broker {redact_url(settings.broker_url)}"
    for registered in registry:
        yield f"Serves {registered.name}: {', '.join(registered.steps)}"

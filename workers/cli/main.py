"""The command line: `umbel COMMAND …`, each imported when it is called. `__main__.py` starts it."""

from __future__ import annotations

import sys
from typing import Any

import click

from ...orchestration.model.errors import UmbelError
from .interrupts import INTERRUPTED, next_interrupt_raises
from .lazy_group import Lazy, LazyGroup
from .output import visible

COMMANDS = {
    "run": Lazy(".start.run", "run", "Run a workflow and print its result."),
    "exec": Lazy(".start.exec_program", "exec_program", "Execute a Python program with an embedded Redis and worker."),
    "dev": Lazy(".start.dev", "dev", "Start an embedded Redis, a worker and the HTTP server with its console."),
    "worker": Lazy(".start.worker", "worker", "Start a worker."),
    "serve": Lazy(".start.serve", "serve", "Serve workflows over HTTP, with a console page."),
    "start": Lazy(".start.run", "start", "Start a run and print its id."),
    "runs": Lazy(".runs.show", "runs", "List the newest runs."),
    "show": Lazy(".runs.show", "show", "Show what happened in a run: steps, attempts, workers, timings."),
    "events": Lazy(".runs.events", "events", "Print the events a run has published."),
    "logs": Lazy(".runs.logs", "logs", "Print what the steps of a run have logged."),
    "send": Lazy(".runs.send", "send", "Send an event into a run."),
    "failed": Lazy(".runs.failed", "failed", "List stuck work: failed runs, parked steps, rejected messages."),
    "cancel": Lazy(".runs.cancel", "cancel", "Cancel runs."),
    "retry": Lazy(".runs.retry", "retry", "Resume failed runs from the failed step."),
    "delete": Lazy(".runs.delete", "delete", "Delete ended runs before their retention is over."),
    "pause": Lazy(".checks.pause", "pause", "Pause a queue or a workflow for all workers."),
    "resume": Lazy(".checks.pause", "resume", "Resume a paused queue or workflow."),
    "ping": Lazy(".checks.ping", "ping", "Check whether a worker is alive; sets the exit code."),
    "history": Lazy(".past.looking", "history", "List the changes of a run, or show the run at a point."),
    "diff": Lazy(".past.looking", "diff", "Print what changed in a run's state between two points."),
    "fork": Lazy(".past.going_on", "fork", "Start a run that continues from a point of another run."),
    "rewind": Lazy(".past.going_on", "rewind", "Set a run back to a point of its past."),
    "replay": Lazy(
        ".past.replaying", "replay", "Execute recorded steps again with other code, and compare the outcomes."
    ),
    "verify": Lazy(".past.looking", "verify", "Rebuild runs from their journals and compare them with what is stored."),
    "sessions": Lazy(".sessions.listing", "sessions", "List sessions."),
    "session": Lazy(".sessions.one", "session", "Show or change a session, its runs and its state."),
    "check": Lazy(".checks.check", "check", "Check workflows for mistakes without running them."),
    "graph": Lazy(".checks.graph", "graph", "Draw a workflow's steps and events."),
    "doctor": Lazy(".checks.doctor", "doctor", "Check Redis, broker and workers, and suggest fixes."),
    "completion": Lazy(".checks.completion", "completion", "Print the completion script of bash, zsh or fish."),
    "flower": Lazy(".start.flower", "flower", "Start Flower, Celery's monitor, on this deployment."),
}
#: Former names of commands, which still work but are not listed.
ALIASES = {"dead": "failed"}


class _Cli(LazyGroup):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        next_interrupt_raises()
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except UmbelError as error:
            if ctx.params["traceback"]:
                raise
            raise click.ClickException(visible(str(error))) from error


@click.group(
    "umbel", cls=_Cli, lazy=COMMANDS, aliases=ALIASES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--traceback", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(package_name="umbel")
def cli(traceback: bool) -> None:
    """Event-driven workflows on Celery.

    TARGET is package.module, package.module:Workflow, path/file.py or path/file.py:Workflow.

    Commands that read runs use --redis, UMBEL_REDIS_URL, or else the embedded Redis of `umbel run` and `umbel dev`.
    """

"""The command line: `umbel COMMAND …`. The commands themselves are in `commands/`, imported when they are called."""

from __future__ import annotations

from typing import Any

import click

from ...orchestration.model.errors import UmbelError
from .lazy_group import Lazy, LazyGroup

COMMANDS = {
    "run": Lazy(".run", "run", "Run a workflow here and print its result."),
    "exec": Lazy(".exec_program", "exec_program", "Execute an unchanged Python program, everything it needs embedded."),
    "dev": Lazy(".dev", "dev", "Embedded Redis, a worker, and the HTTP server with its console, in one terminal."),
    "worker": Lazy(".worker", "worker", "Start a worker."),
    "serve": Lazy(".serve", "serve", "Serve workflows over HTTP, with a console page."),
    "start": Lazy(".run", "start", "Start a run, print its id and return."),
    "runs": Lazy(".show", "runs", "List the newest runs."),
    "show": Lazy(".show", "show", "Show what happened in a run: steps, attempts, workers, timings."),
    "events": Lazy(".events", "events", "Print the events that a run has published."),
    "send": Lazy(".send_cancel_retry", "send", "Send an event into a run."),
    "dead": Lazy(".dead", "dead", "List what does not go on by itself: failed runs, parked work, bad messages."),
    "cancel": Lazy(".send_cancel_retry", "cancel", "Cancel a run."),
    "retry": Lazy(".send_cancel_retry", "retry", "Take up failed runs again, where they failed."),
    "check": Lazy(".check_graph", "check", "Check workflows for mistakes, without running them."),
    "graph": Lazy(".check_graph", "graph", "Draw a workflow's steps and events."),
    "doctor": Lazy(".doctor", "doctor", "Examine Redis, broker and workers, and say what to mend."),
    "flower": Lazy(".flower", "flower", "Start Flower, Celery's monitor, on this deployment."),
}


class _Cli(LazyGroup):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UmbelError as error:
            if ctx.params["traceback"]:
                raise
            raise click.ClickException(str(error)) from error


@click.group("umbel", cls=_Cli, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, help="Show where in umbel an error comes from.")
@click.version_option(package_name="umbel")
def cli(traceback: bool) -> None:
    """Event-driven workflows on Celery.

    TARGET is package.module, package.module:Workflow, path/file.py or path/file.py:Workflow.

    Commands that look at runs use --redis, else UMBEL_REDIS_URL, else the embedded Redis of `umbel run` and `dev`.
    """


def main() -> None:
    """The entry point; exits 0, 1 for an error that has been printed, 2 for a command that cannot be understood."""
    cli(prog_name="umbel")


if __name__ == "__main__":
    main()

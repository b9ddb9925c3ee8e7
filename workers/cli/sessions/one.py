"""`umbel session NAME`: one session, and what can be done to it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from ....orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ....orchestration.sessions.look import SessionRecord
from ....orchestration.store.replies import RunRecord
from ....tasks.client.runtime import Runtime
from ....tasks.client.session import Session
from ..deployment.options import deployment_options
from ..deployment.runtime import existing_runtime
from ..output import instant, iso, note, print_json, print_table, say
from .listing import described, summary


@dataclass(frozen=True)
class _Opened:
    """The session that the command is about."""

    runtime: Runtime
    session: Session

    def record(self) -> SessionRecord:
        """The session's current record."""
        found = self.session.record()
        if found is None:
            name = self.session.name
            raise WorkflowRuntimeError(f"There is no session {name!r}. `umbel sessions` lists those there are.")
        return found

    def runs(self, ids: list[str]) -> list[RunRecord]:
        """The records of the given runs that still exist."""
        found = []
        for run_id in ids:
            with suppress(RunNotFound):
                found.append(self.runtime.portal.call(self.runtime.store.run(run_id)))
        return found


@click.group(invoke_without_command=True)
@click.argument("name", metavar="NAME")
@deployment_options
@click.pass_context
def session(ctx: click.Context, name: str, redis_url: str | None, state: str | None) -> None:
    """Show session NAME. Commands after the name show its runs or its state, or change it."""
    runtime = ctx.with_resource(existing_runtime(redis_url, state))
    ctx.obj = opened = _Opened(runtime, Session(name, runtime))
    record = opened.record()
    if ctx.invoked_subcommand is None:
        _show(opened.session, record)


def _show(made: Session, record: SessionRecord) -> None:
    rows = [
        ("Session", record.name),
        ("Status", described(record)),
        ("Run", record.run_id or "none yet"),
        ("State", f"version {record.version}"),
        ("Last change", instant(record.changed_at)),
        *(("Waiting", each.run_id) for each in made.waiting()),
    ]
    for title, text in rows:
        say(f"{title:<12} {text}")


def _json(function: Any) -> Any:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


@session.command()
@click.pass_obj
def show(opened: _Opened) -> None:
    """Print the session as JSON."""
    print_json(summary(opened.record()) | {"waiting_runs": [each.run_id for each in opened.session.waiting()]})


@session.command()
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="At most this many.")
@_json
@click.pass_obj
def runs(opened: _Opened, limit: int, as_json: bool) -> None:
    """List the session's runs, newest first.

    Runs that wait for their turn come before runs that have begun.
    """
    found = opened.runs([each.run_id for each in [*reversed(opened.session.waiting()), *opened.session.runs(limit)]])
    if as_json:
        print_json([_run(record) for record in found])
        return
    print_table(
        ("RUN", "STATUS", "STARTED", "WORKFLOW"),
        ((each.run_id, _run(each)["status"], instant(each.created_at), each.workflow) for each in found),
    )


@session.command()
@click.option("--version", type=int, help="The state at this version; by default the current state.")
@click.pass_obj
def state(opened: _Opened, version: int | None) -> None:
    """Print the session's state as it is stored, as JSON."""
    print_json(opened.session.stored_state(version))


@session.command()
@_json
@click.pass_obj
def versions(opened: _Opened, as_json: bool) -> None:
    """List the versions in which the session's runs left the state, the current one first."""
    found = opened.session.versions()
    if as_json:
        print_json([{"version": each.version, "after": each.after} for each in found])
    else:
        print_table(("VERSION", "AFTER RUN"), ((str(each.version), each.after or "(its beginning)") for each in found))


@session.command()
@click.argument("new_name", metavar="NEW")
@click.option(
    "--at", type=int, metavar="VERSION", help="Begin with the state at this version; by default with the current state."
)
@click.pass_obj
def fork(opened: _Opened, new_name: str, at: int | None) -> None:
    """Create a session called NEW that begins with the state of this session."""
    opened.session.fork(new_name, at)
    note(f"Session {new_name!r} has the state of {opened.session.name!r}.")


@session.command()
@click.argument("version", type=int)
@click.pass_obj
def rewind(opened: _Opened, version: int) -> None:
    """Set the state back to VERSION. Refused while a run is running or waiting."""
    made = opened.session.rewind(to=version)
    note(f"The state of session {opened.session.name!r} is as in version {version}; this is version {made}.")


@session.command()
@click.pass_obj
def close(opened: _Opened) -> None:
    """Accept no more runs. Runs that are running or waiting continue."""
    opened.session.close()
    note(f"Session {opened.session.name!r} takes no more runs.")


@session.command()
@click.pass_obj
def delete(opened: _Opened) -> None:
    """Delete the session, its state and the records of its runs. Refused while a run is running or waiting."""
    opened.session.delete()
    note(f"Deleted session {opened.session.name!r}.")


def _run(record: RunRecord) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "workflow": record.workflow,
        "status": "queued" if record.is_queued else record.status,
        "created_at": iso(record.created_at),
        "ended_at": iso(record.ended_at),
    }

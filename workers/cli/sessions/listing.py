"""`umbel sessions`: the list of sessions."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

import click

from ....orchestration.sessions.listing import SessionQuery, all_sessions
from ....orchestration.sessions.look import SessionRecord, SessionStatus
from ..deployment.existing import existing_store
from ..deployment.options import deployment_options
from ..output import instant, iso, note, print_json, print_table


@click.command()
@click.option("--prefix", default="", metavar="TEXT", help="Only sessions whose names begin with this.")
@click.option("--status", type=click.Choice(get_args(SessionStatus)), help="Only busy or only idle sessions.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@deployment_options
def sessions(
    prefix: str,
    status: SessionStatus | None,
    limit: int,
    as_json: bool,
    redis_url: str | None,
    state: str | None,
) -> None:
    """List sessions, the ones whose runs have begun or ended most recently first."""
    with existing_store(redis_url, state) as (store, portal):
        found = portal.call(all_sessions(store, SessionQuery(prefix, status, limit)))
    if as_json:
        print_json([summary(record) for record in found])
        return
    if not found:
        note("No matching sessions." if status or prefix else "No sessions yet.")
        return
    print_table(
        ("SESSION", "STATUS", "WAITING", "VERSION", "LAST CHANGE"),
        (
            (each.name, described(each), str(each.waiting), str(each.version), instant(each.changed_at))
            for each in found
        ),
    )


def described(record: SessionRecord) -> str:
    """The status as text."""
    return f"{record.status}, closed" if record.is_closed else record.status


def summary(record: SessionRecord) -> dict[str, object]:
    """A session as JSON."""
    return asdict(record) | {"changed_at": iso(record.changed_at)}

"""`umbel history`, `umbel diff` and `umbel verify`: what changed in a run, and whether the journal matches the run."""

from __future__ import annotations

from dataclasses import asdict

import click

from ....orchestration.history import verify as verification
from ....orchestration.history.points import Point, RunAt, Where, point_at, points
from ....orchestration.model.errors import HistoryDamaged
from ....orchestration.store.verbs import Store
from ..deployment.existing import existing_store
from ..deployment.options import deployment_options
from ..output import clock, counted, note, print_json, print_table
from ..runs.find import find_run


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--step", metavar="NAME", help="Only changes of this step.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only changes of this kind: commit, claim, state, send, …"
)
@click.option("--at", "point", metavar="POINT", help="Show the run at this point: 57, 'before STEP', 'after STEP#2'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@deployment_options
def history(
    run_id: str,
    step: str | None,
    kinds: tuple[str, ...],
    point: str | None,
    as_json: bool,
    redis_url: str | None,
    state: str | None,
) -> None:
    """List the changes of RUN, or show its state and its work at one of them."""
    with existing_store(redis_url, state) as (store, portal):
        run_id = portal.call(find_run(store, run_id))
        if point is not None:
            _show(portal.call(point_at(store, run_id, Where.of(point))), as_json=as_json)
            return
        found = portal.call(_points(store, run_id, step, kinds))
    if as_json:
        print_json([asdict(each) for each in found])
        return
    if not found:
        note("No matching changes.")
        return
    print_table(("POINT", "TIME", "KIND", "STEP", "ATTEMPT", "OUTCOME", "STATE", "WORKER"), map(_row, found))


async def _points(store: Store, run_id: str, step: str | None, kinds: tuple[str, ...]) -> list[Point]:
    return [point async for point in points(store, run_id, step=step, kinds=kinds or None)]


def _row(point: Point) -> tuple[str, ...]:
    attempt = str(point.attempt) if point.attempt else ""
    at = clock(round(point.at.timestamp() * 1000))
    version = str(point.state_version)
    outcome = "fanned out" if point.outcome == "fannedout" else point.outcome
    outcome = f"{outcome}, recorded" if point.reused else outcome
    return str(point.seq), at, point.kind, point.step, attempt, outcome, version, point.worker


def _show(at: RunAt, *, as_json: bool) -> None:
    work = [
        {
            "step": item.step,
            "work_id": item.work_id,
            "state": "suspended" if item.suspended else "running" if item.running else "waiting",
            "failures": item.failures,
            "events": [event.value() for event in item.events],
        }
        for item in at.work().items
    ]
    if as_json:
        about = {key: value for key, value in vars(at).items() if key in Point.__dataclass_fields__}
        print_json(about | {"state": at.state(), "work": work})
        return
    note(f"Run {at.run_id!r} after change {at}:")
    print_json({"state": at.state()})
    if work:
        print_table(
            ("STEP", "WORK ITEM", "IS", "FAILURES"),
            ((str(each["step"]), str(each["work_id"]), str(each["state"]), str(each["failures"])) for each in work),
        )
    else:
        note("No work was left.")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("before", metavar="POINT")
@click.argument("after", metavar="POINT")
@deployment_options
def diff(run_id: str, before: str, after: str, redis_url: str | None, state: str | None) -> None:
    """Print what changed in the state of RUN between two points, as a JSON Patch (RFC 6902)."""
    with existing_store(redis_url, state) as (store, portal):
        run_id = portal.call(find_run(store, run_id))
        first, last = (portal.call(point_at(store, run_id, Where.of(each))) for each in (before, after))
    print_json(first.diff(last))


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@deployment_options
def verify(run_ids: tuple[str, ...], redis_url: str | None, state: str | None) -> None:
    """Rebuild each RUN from its journal and compare it with the stored run. Exits with 1 if they differ."""
    with existing_store(redis_url, state) as (store, portal):
        for text in run_ids:
            found = portal.call(verification.verify(store, portal.call(find_run(store, text))))
            if not found.holds:
                raise HistoryDamaged(
                    f"The journal of run {found.run_id!r} does not lead to the stored run; the first difference is in "
                    f"{found.differences[0]}"
                )
            note(f"Run {found.run_id!r} matches its journal: {counted(found.entries, 'change')} applied again.")

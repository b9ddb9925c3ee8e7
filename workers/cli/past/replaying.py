"""`umbel replay`: checks whether code does the same as runs have recorded."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Unpack

import click

from ....tasks.client.runtime import Runtime
from ....tasks.replay.replaying import replay as replayed
from ....tasks.replay.report import ReplayReport
from ..deployment.options import deployment_options
from ..deployment.runtime import existing_runtime
from ..output import counted, note, print_json, say
from ..runs.conditions import Conditions, condition_options, is_given
from ..runs.find import find_run
from ..runs.selecting import found
from ..targets import build, load_target


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@click.option("--code", required=True, metavar="TARGET", help="The workflows to execute the recorded steps with.")
@condition_options
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="At most this many of the runs that meet the conditions.",
)
@click.option("--result-only", is_flag=True, help="Compare only results, errors and waits.")
@click.option("--strict", is_flag=True, help="Exit with 1 also if an attempt could not be replayed, or none was.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@deployment_options
def replay(
    run_ids: tuple[str, ...],
    code: str,
    limit: int,
    result_only: bool,
    strict: bool,
    as_json: bool,
    redis_url: str | None,
    state: str | None,
    **conditions: Unpack[Conditions],
) -> None:
    """Execute the recorded steps of runs again, with the code of TARGET, and print where they differ.

    The steps of each RUN, or of the runs that meet the conditions. The recorded runs are not changed, but side effects
    of the steps really happen. Exits with 1 if there is a difference.
    """
    if bool(run_ids) == is_given(conditions):
        raise click.UsageError("Give run ids, or conditions such as --workflow, --where or --since.")
    with existing_runtime(redis_url, state) as runtime:
        workflows = load_target(code)
        for each in workflows:
            runtime.registry.add(each)
        report = replayed(
            _chosen(runtime, run_ids, conditions, limit),
            workflow=build(workflows[0]) if len(workflows) == 1 else None,
            compare="result" if result_only else "events",
            runtime=runtime,
        )
    _print(report, as_json=as_json)
    if not report.holds or (strict and (report.not_replayed or not report.equal)):
        sys.exit(1)


def _chosen(runtime: Runtime, run_ids: tuple[str, ...], conditions: Conditions, limit: int) -> list[str]:
    if run_ids:
        return [runtime.portal.call(find_run(runtime.store, text)) for text in run_ids]
    return [run.run_id for run in found(runtime, conditions, limit=limit)]


def _print(report: ReplayReport, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report) | {"holds": report.holds})
        return
    for mismatch in report.mismatches:
        say(str(mismatch))
    for each in report.not_replayed:
        say(f"not replayed: {each}")
    note(
        f"{counted(len(report.runs), 'run')}: {counted(report.equal, 'attempt')} as recorded, "
        f"{counted(len(report.mismatches), 'difference')}, {len(report.not_replayed)} not replayed."
    )

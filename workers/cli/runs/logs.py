"""`umbel logs`: what the code of a run's steps has logged and printed."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict

import click

from ....orchestration.inspection.content.step_logs import LogLine, read_log
from ..deployment.existing import existing_store
from ..deployment.options import deployment_options
from ..output import clock, iso, note, say
from .find import find_run


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--step", metavar="NAME", help="Only the log of this step.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@deployment_options
def logs(run_id: str, step: str | None, as_json: bool, redis_url: str | None, state: str | None) -> None:
    """Print what the steps of RUN have logged and printed, in order.

    UMBEL_STEP_LOGS, UMBEL_STEP_LOG_MAX_BYTES and UMBEL_RUN_LOG_MAX_BYTES set how much is kept.
    """
    with existing_store(redis_url, state) as (store, portal):
        run_id = portal.call(find_run(store, run_id))
        log = portal.call(read_log(store, run_id, step=step))
    if log.is_cut:
        note("The oldest lines were removed, because there were too many; see UMBEL_RUN_LOG_MAX_BYTES.")
    for line in log.lines:
        if as_json:
            click.echo(_as_json(line))
        else:
            say(_as_text(line))
    if not log.lines:
        note("Nothing was logged.")


def _as_json(line: LogLine) -> str:
    return json.dumps(asdict(line) | {"at": iso(line.at)}, ensure_ascii=False)


def _as_text(line: LogLine) -> str:
    where = line.step if line.attempt == 1 else f"{line.step}, attempt {line.attempt}"
    first, *more = line.text.split("\n")
    text = f"{clock(line.at)}  {where}  {line.level:<7}  {line.logger}: {first}"
    return "\n".join([text, *(textwrap.indent(each, "    ") for each in more)])

"""`umbel exec`: an unchanged program, with an embedded Redis and worker."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path

import click

from ....orchestration.inspection.run_list import newest_runs
from ....tasks.client.workflow import Workflow
from ...local.deployment import local
from ..output import note
from ..targets import llama_index_option


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@llama_index_option
@click.argument("program", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def exec_program(program: Path, arguments: tuple[str, ...]) -> None:
    """Execute the Python program PROGRAM, which runs workflows, with an embedded Redis and an in-process worker.

    The program needs no change and no configuration, and behaves as with `python PROGRAM`. All state is in a temporary
    folder, which is deleted when the program ends.
    """
    sys.argv = [str(program), *arguments]
    sys.path.insert(0, str(program.absolute().parent))
    with local(in_process=True) as runtime:
        try:
            names = runpy.run_path(str(program), run_name="__main__")
        except Exception as error:
            _show(error, program)
            sys.exit(1)
        own = [each for each in names.values() if isinstance(each, type) and each.__module__ == "__main__"]
        has_workflows = any(issubclass(each, Workflow) for each in own)
        if has_workflows and not runtime.portal.call(newest_runs(runtime.store, limit=1)):
            note(f"{program} has started no run. Start one of a workflow in it with: umbel run {program} KEY=VALUE…")


def _show(error: Exception, program: Path) -> None:
    """Print the traceback as `python PROGRAM` would: beginning at the program."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != str(program):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace or error.__traceback__)

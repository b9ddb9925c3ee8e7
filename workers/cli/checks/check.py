"""`umbel check`: validating workflows without running them."""

from __future__ import annotations

import sys

import click

from ....orchestration.model.errors import UmbelError
from ....tasks.workflow.registry import Registrable
from ..output import counted, note
from ..targets import build, load_targets


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
def check(targets: tuple[str, ...]) -> None:
    """Load each TARGET and report every mistake in its workflows.

    Exits with 1 if there is any.
    """
    found = load_targets(targets)
    invalid = [each for each in found if not _is_valid(each)]
    if invalid:
        verb = "is" if len(invalid) == 1 else "are"
        note(f"{len(invalid)} of {len(found)} workflows {verb} invalid.")
        sys.exit(1)


def _is_valid(workflow: Registrable) -> bool:
    name = getattr(workflow, "__qualname__", type(workflow).__qualname__)
    try:
        built = build(workflow)
        has_human = built.validate()
    except (UmbelError, ValueError) as error:
        click.echo(f"{name}: invalid")
        for line in str(error).splitlines():
            click.echo(f"  - {line}")
        return False
    human = ", human in the loop" if has_human else ""
    click.echo(f"{built.workflow_name}: OK ({counted(len(built.steps), 'step')}{human})")
    return True

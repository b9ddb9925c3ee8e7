"""`umbel check`: validating workflows without running them."""

from __future__ import annotations

import sys

import click

from ....orchestration.model.errors import UmbelError
from ....tasks.workflow.registry import Registrable
from ..output import counted, note
from ..targets import build, llama_index_option, load_target


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@llama_index_option
def check(targets: tuple[str, ...]) -> None:
    """Load each TARGET and report every mistake in its workflows.

    Exits with 1 if there is any.
    """
    found, unloaded = _load(targets)
    invalid = [each for each in found if not _is_valid(each)]
    if invalid:
        verb = "is" if len(invalid) == 1 else "are"
        note(f"{len(invalid)} of {len(found)} workflows {verb} invalid.")
    for error in unloaded:
        note(f"Error: {error}")
    if invalid or unloaded:
        sys.exit(1)


def _load(targets: tuple[str, ...]) -> tuple[list[Registrable], list[UmbelError]]:
    """The workflows of all targets that can be loaded, and the errors of the others."""
    found: dict[int, Registrable] = {}
    unloaded: list[UmbelError] = []
    for target in targets:
        try:
            found |= {id(each): each for each in load_target(target)}
        except UmbelError as error:
            unloaded.append(error)
    return list(found.values()), unloaded


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

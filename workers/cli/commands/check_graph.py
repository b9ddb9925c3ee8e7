"""`umbel check` and `umbel graph`: what can be said of workflows without running them."""

from __future__ import annotations

import sys

import click

from ....orchestration.model.errors import UmbelError
from ....tasks.workflow.registry import Registrable
from ..graph import as_html, as_json, as_mermaid, as_text
from ..output import note, print_json
from ..targets import build, load_target, load_targets


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
def check(targets: tuple[str, ...]) -> None:
    """Load each TARGET and report everything that keeps its workflows from running.

    Exits with 1 if there is anything.
    """
    found = load_targets(targets)
    faulty = [each for each in found if not _is_sound(each)]
    if faulty:
        note(f"{len(faulty)} of {len(found)} cannot run as written.")
        sys.exit(1)


def _is_sound(workflow: Registrable) -> bool:
    name = getattr(workflow, "__qualname__", type(workflow).__qualname__)
    try:
        built = build(workflow)
        has_human = built.validate()
    except (UmbelError, ValueError) as error:
        click.echo(f"{name}: cannot run")
        for line in str(error).splitlines():
            click.echo(f"  - {line}")
        return False
    human = ", with a human in the loop" if has_human else ""
    click.echo(f"{built.workflow_name}: sound ({len(built.steps)} steps{human})")
    return True


@click.command()
@click.argument("target")
@click.option(
    "--format", "form", type=click.Choice(["mermaid", "json", "html", "text"]), default="text", show_default=True
)
def graph(target: str, form: str) -> None:
    """Draw which step of TARGET hands which event to which. It need not be a sound workflow."""
    workflows = [build(each) for each in load_target(target)]
    if form == "json":
        print_json([as_json(each) for each in workflows] if len(workflows) > 1 else as_json(workflows[0]))
        return
    if form == "html" and len(workflows) > 1:
        names = ", ".join(type(each).__name__ for each in workflows)
        raise click.UsageError(f"{target} has {len(workflows)} workflows, and a page shows one. Name one of: {names}.")
    draw = {"mermaid": as_mermaid, "html": as_html, "text": as_text}[form]
    click.echo("\n\n".join(draw(each) for each in workflows))

"""`umbel graph`: a workflow's steps and events as JSON, mermaid, HTML or text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from ....tasks.drawing.child_workflows import with_child_workflows
from ....tasks.drawing.flow_picture import flow_picture, steps_in_order
from ....tasks.drawing.html import as_html as page_of
from ....tasks.drawing.mermaid import as_mermaid as chart_of
from ....tasks.drawing.representation_builder import get_workflow_representation
from ....tasks.events.event import Event
from ....tasks.steps.decorators import StepConfig
from ....tasks.steps.discovery import steps_of
from ....tasks.workflow.definition import WorkflowDefinition
from ....tasks.workflow.plan_builder import build_plan
from ..output import print_json
from ..targets import build, llama_index_option, load_target


@click.command()
@click.argument("target")
@click.option(
    "--format", "form", type=click.Choice(["mermaid", "json", "html", "text"]), default="text", show_default=True
)
@llama_index_option
def graph(target: str, form: str) -> None:
    """Draw the steps of TARGET and the events between them. Works for invalid workflows too."""
    workflows = [build(each) for each in load_target(target)]
    if form == "json":
        print_json([as_json(each) for each in workflows] if len(workflows) > 1 else as_json(workflows[0]))
        return
    if form == "html" and len(workflows) > 1:
        names = ", ".join(type(each).__name__ for each in workflows)
        raise click.UsageError(
            f"{target} has {len(workflows)} workflows; an HTML page shows one. Choose one of: {names}."
        )
    draw = {"mermaid": as_mermaid, "html": as_html, "text": as_text}[form]
    click.echo("\n\n".join(draw(each) for each in workflows))


def as_json(workflow: WorkflowDefinition) -> dict[str, Any]:
    """The representation, with each step as it is in the plan of a run."""
    plan = build_plan(workflow)
    return {
        "workflow": plan.workflow,
        **get_workflow_representation(workflow).model_dump(mode="json"),
        "steps": [asdict(step) for step in plan.steps],
    }


def as_mermaid(workflow: WorkflowDefinition) -> str:
    """The representation as a mermaid flowchart, which GitHub and many editors render."""
    return chart_of(flow_picture(with_child_workflows(workflow)))


def as_html(workflow: WorkflowDefinition) -> str:
    """The representation as a self-contained HTML page."""
    return page_of(flow_picture(with_child_workflows(workflow)))


def as_text(workflow: WorkflowDefinition) -> str:
    """One line per step, in the order of a run: the events it accepts and returns."""
    steps = steps_of(type(workflow))
    width = max((len(name) for name in steps), default=0)
    lines = [workflow.workflow_name]
    for name in steps_in_order(get_workflow_representation(workflow)):
        config = steps[name]
        line = f"  {name:<{width}}  {_accepted(config)} -> {_returned(config)}"
        if config.recovers:
            covered = "any step" if config.recovers == ("*",) else ", ".join(config.recovers)
            line += f"   (catches failures of {covered})"
        lines.append(line)
    return "\n".join(lines)


def _accepted(config: StepConfig) -> str:
    accepted = _joined(config.accepted_events, " & " if config.kind == "all_of" else " | ")
    return f"list[{accepted}]" if config.kind == "collect" else accepted


def _returned(config: StepConfig) -> str:
    returned = [event.__name__ for event in config.single_returns]
    returned += [f"list[{event.__name__}]" for event in config.list_returns]
    return " | ".join(returned) or "nothing"


def _joined(events: list[type[Event]], by: str) -> str:
    return by.join(event.__name__ for event in events)

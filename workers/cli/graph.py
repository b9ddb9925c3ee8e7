"""What `umbel graph` prints of a workflow: its representation, as JSON, mermaid, HTML or text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ...tasks.drawing.child_workflows import with_child_workflows
from ...tasks.drawing.flow_picture import flow_picture, steps_in_order
from ...tasks.drawing.html import as_html as page_of
from ...tasks.drawing.mermaid import as_mermaid as chart_of
from ...tasks.drawing.representation_builder import get_workflow_representation
from ...tasks.events.event import Event
from ...tasks.steps.decorators import StepConfig
from ...tasks.workflow.definition import WorkflowDefinition
from ...tasks.workflow.plan_builder import build_plan


def as_json(workflow: WorkflowDefinition) -> dict[str, Any]:
    """The representation, and the limits of each step as runs are given them."""
    plan = build_plan(workflow)
    return {
        "workflow": plan.workflow,
        **get_workflow_representation(workflow).model_dump(mode="json"),
        "steps": [asdict(step) for step in plan.steps],
    }


def as_mermaid(workflow: WorkflowDefinition) -> str:
    """The representation as a mermaid flowchart, which GitHub and many editors draw."""
    return chart_of(flow_picture(with_child_workflows(workflow)))


def as_html(workflow: WorkflowDefinition) -> str:
    """The representation as a page that loads nothing from anywhere."""
    return page_of(flow_picture(with_child_workflows(workflow)))


def as_text(workflow: WorkflowDefinition) -> str:
    """One line per step, as a run meets them: what it takes, what it gives."""
    steps = workflow.steps
    width = max((len(name) for name in steps), default=0)
    lines = [workflow.workflow_name]
    for name in steps_in_order(get_workflow_representation(workflow)):
        config = steps[name]
        line = f"  {name:<{width}}  {_taken(config)} -> {_given(config)}"
        if config.recovers:
            covered = "any step" if config.recovers == ("*",) else ", ".join(config.recovers)
            line += f"   (catches failures of {covered})"
        lines.append(line)
    return "\n".join(lines)


def _taken(config: StepConfig) -> str:
    taken = _joined(config.accepted_events, " & " if config.kind == "all_of" else " | ")
    return f"list[{taken}]" if config.kind == "collect" else taken


def _given(config: StepConfig) -> str:
    given = [event.__name__ for event in config.single_returns]
    given += [f"list[{event.__name__}]" for event in config.list_returns]
    return " | ".join(given) or "nothing"


def _joined(events: list[type[Event]], by: str) -> str:
    return by.join(event.__name__ for event in events)

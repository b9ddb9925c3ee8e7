"""A workflow's graph with coordinates for the page: from its classes, or from a run's plan alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...orchestration.model.plan import Plan
from ...tasks.drawing.flow_picture import flow_picture
from ...tasks.drawing.html import arrow_path, best_layout, box_size, label_place
from ...tasks.drawing.picture import Arrow, Box, Line, Look, Picture
from ...tasks.drawing.representation_builder import get_workflow_representation
from ...tasks.steps.discovery import steps_of
from ...tasks.workflow.definition import WorkflowDefinition


def graph_of(workflow: WorkflowDefinition) -> dict[str, Any]:
    """The graph of a workflow whose code is loaded here, without values of its configuration files."""
    picture = flow_picture(get_workflow_representation(workflow), 32)
    limits = {name: config.num_workers for name, config in steps_of(type(workflow)).items()}
    return drawn(picture, limits)


def graph_of_plan(plan: Plan) -> dict[str, Any]:
    """The graph from a run's plan: steps and events, without resources and descriptions."""
    boxes: dict[str, Box] = {}
    arrows: dict[Arrow, None] = {}

    def event(name: str) -> str:
        look: Look = "start" if name == plan.start_event else "stop" if name in plan.stop_events else "event"
        return boxes.setdefault(f"event {name}", Box(f"event {name}", look, name.rpartition(".")[2], title=name)).id

    event(plan.start_event)
    for step in plan.steps:
        boxes[step.name] = Box(step.name, "step", step.name, title=step.name)
        taken: Line = "thick" if step.kind == "collect" else "plain"
        for name in step.accepts:
            arrows[Arrow(event(name), step.name, line=taken)] = None
        for name in step.returns:
            arrows[Arrow(step.name, event(name))] = None
        for name in step.fans_out:
            arrows[Arrow(step.name, event(name), line="thick")] = None
    picture = Picture(plan.workflow.rpartition(".")[2], tuple(boxes.values()), tuple(arrows))
    return drawn(picture, {step.name: step.num_workers for step in plan.steps})


def drawn(picture: Picture, num_workers: Mapping[str, int]) -> dict[str, Any]:
    """The picture as data, with coordinates in pixels.

    Args:
        picture: Boxes and arrows.
        num_workers: The limit of each step, shown in the second line of its box until a run's counts replace it.
    """
    boxes = (_with_room(box) if box.look == "step" else box for box in picture.boxes)
    picture = replace(picture, boxes=tuple(boxes))
    placed = best_layout(picture)
    return {
        "title": picture.title,
        "width": round(placed.width),
        "height": round(placed.height),
        "boxes": [_box(box, placed.centers[box.id], num_workers.get(box.id)) for box in picture.boxes],
        "arrows": [
            _arrow(arrow, path, placed.sideways) for arrow, path in zip(picture.arrows, placed.paths, strict=True)
        ],
        "headings": list(picture.headings),
        "rows": [list(row) for row in picture.rows],
    }


#: The longest usual second line of a step's box, which determines its width.
_ROOM = "▶ 8 running  ✓ 88 done"


def _with_room(box: Box) -> Box:
    return replace(box, detail=_ROOM)


def _box(box: Box, center: tuple[float, float], num_workers: int | None) -> dict[str, Any]:
    width, height = box_size(box)
    return {
        "id": box.id,
        "look": box.look,
        "label": box.label,
        "title": box.title,
        "detail": _limit(num_workers) if box.look == "step" else box.detail,
        "x": round(center[0] - width / 2, 1),
        "y": round(center[1] - height / 2, 1),
        "width": round(width, 1),
        "height": round(height, 1),
    }


def _limit(num_workers: int | None) -> str:
    return "" if num_workers is None else "one at a time" if num_workers == 1 else f"up to {num_workers} at once"


def _arrow(arrow: Arrow, path: tuple[tuple[float, float], ...], sideways: bool) -> dict[str, Any]:
    x, y = label_place(path)
    return {
        "from": arrow.source,
        "to": arrow.target,
        "line": arrow.line,
        "label": arrow.label,
        "path": arrow_path(arrow, path, sideways),
        "x": round(x, 1),
        "y": round(y, 1),
    }

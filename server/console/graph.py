"""A workflow's structure with places, for the page to draw: from its classes, or from the plan of a run alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...orchestration.model.plan import Plan
from ...tasks.drawing.flow_picture import flow_picture
from ...tasks.drawing.html import arrow_path, best_layout, box_size, label_place
from ...tasks.drawing.picture import Arrow, Box, Line, Look, Picture
from ...tasks.drawing.representation_builder import get_workflow_representation
from ...tasks.workflow.definition import WorkflowDefinition


def graph_of(workflow: WorkflowDefinition) -> dict[str, Any]:
    """Boxes and arrows of a workflow whose code is loaded here. Values of its configuration files are left out."""
    picture = flow_picture(get_workflow_representation(workflow), 32)
    limits = {name: config.num_workers for name, config in workflow.steps.items()}
    return drawn(picture, limits)


def graph_of_plan(plan: Plan) -> dict[str, Any]:
    """The same from what a run carries with it: steps and events, no resources and no descriptions."""
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
    """The picture as data: what stands where, in pixels.

    Args:
        picture: Boxes and arrows.
        num_workers: Of each step. A step's box has a second line: until a run says what the step does, its limit.
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


#: The longest line that a step says of itself in usual runs: it decides how wide the boxes are.
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
        "detail": ""
        if num_workers is None
        else "one at a time"
        if num_workers == 1
        else f"up to {num_workers} at once",
        "x": round(center[0] - width / 2, 1),
        "y": round(center[1] - height / 2, 1),
        "width": round(width, 1),
        "height": round(height, 1),
    }


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

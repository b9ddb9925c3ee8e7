"""Drawings of workflows and of runs, each as one HTML file or as Mermaid text.

A file loads nothing from elsewhere: it can be mailed, archived and opened without a network.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ...orchestration.inspection.run_trace import past_run
from ..client.handler import WorkflowHandler
from ..workflow.definition import WorkflowDefinition
from .child_workflows import with_child_workflows
from .flow_picture import flow_picture
from .html import as_html
from .mermaid import as_mermaid
from .picture import Picture
from .representation_builder import get_workflow_representation
from .run_picture import run_picture


@dataclass(frozen=True, slots=True)
class NotebookDrawing:
    """A drawing that Jupyter shows when it is the last value of a cell."""

    html: str
    height: int = 640

    def _repr_html_(self) -> str:
        # A separate document: the styles of the page and of the drawing do not mix, and no script runs.
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="" title="Drawing of a workflow" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


def draw_all_possible_flows(
    workflow: WorkflowDefinition | type[WorkflowDefinition],
    filename: str | os.PathLike[str] = "workflow_all_flows.html",
    notebook: bool = False,
    max_label_length: int | None = None,
    include_child_workflows: bool = True,
) -> NotebookDrawing | None:
    """Draw all paths that events can take through a workflow.

    Args:
        workflow: A workflow or its class; it need not be valid.
        filename: The HTML file to write. It is replaced as a whole, or not at all.
        notebook: Also return an object that Jupyter displays.
        max_label_length: Maximum characters of a label; longer ones are cut. None cuts nothing.
        include_child_workflows: Also draw the workflows that steps start by calling their class.

    Raises:
        OSError: The file cannot be written.
    """
    return _drawn(_flows(workflow, max_label_length, include_child_workflows), filename, notebook)


def draw_all_possible_flows_mermaid(
    workflow: WorkflowDefinition | type[WorkflowDefinition],
    filename: str | os.PathLike[str] | None = None,
    max_label_length: int | None = None,
    include_child_workflows: bool = True,
) -> str:
    """Like `draw_all_possible_flows`, but returns a Mermaid flowchart.

    Args:
        workflow: A workflow or its class.
        filename: Also write it to this file.
        max_label_length: Maximum characters of a label; longer ones are cut. None cuts nothing.
        include_child_workflows: Also draw the workflows that steps start.
    """
    return _charted(_flows(workflow, max_label_length, include_child_workflows), filename)


def draw_most_recent_execution(
    handler: WorkflowHandler,
    filename: str | os.PathLike[str] = "workflow_recent_execution.html",
    notebook: bool = False,
    max_label_length: int | None = None,
) -> NotebookDrawing | None:
    """Draw what happened in a run so far: each work item, and the events that led from one to the next.

    Works for any run, started by any process: `draw_most_recent_execution(umbel.attach(run_id))`.

    *Promise:* changes nothing in Redis. Blocks while it reads the journal.

    Args:
        handler: The run.
        filename: The HTML file to write. It is replaced as a whole, or not at all.
        notebook: Also return an object that Jupyter displays.
        max_label_length: Maximum characters of a label; longer ones are cut. None cuts nothing.

    Raises:
        RunNotFound: The run's retention is over.
        StoreUnavailable: Redis did not answer.
        OSError: The file cannot be written.
    """
    return _drawn(_run(handler, max_label_length), filename, notebook)


def draw_most_recent_execution_mermaid(
    handler: WorkflowHandler,
    filename: str | os.PathLike[str] | None = None,
    max_label_length: int | None = None,
) -> str:
    """Like `draw_most_recent_execution`, but returns a Mermaid flowchart.

    Args:
        handler: The run.
        filename: Also write it to this file.
        max_label_length: Maximum characters of a label; longer ones are cut. None cuts nothing.
    """
    return _charted(_run(handler, max_label_length), filename)


def _flows(
    workflow: WorkflowDefinition | type[WorkflowDefinition], max_label_length: int | None, with_children: bool
) -> Picture:
    graph = with_child_workflows(workflow) if with_children else get_workflow_representation(workflow)
    return flow_picture(graph, max_label_length)


def _run(handler: WorkflowHandler, max_label_length: int | None) -> Picture:
    return run_picture(handler._portal.call(past_run(handler._engine.store, handler.run_id)), max_label_length)


def _drawn(picture: Picture, filename: str | os.PathLike[str], notebook: bool) -> NotebookDrawing | None:
    html = as_html(picture)
    _write(Path(filename), html)
    return NotebookDrawing(html) if notebook else None


def _charted(picture: Picture, filename: str | os.PathLike[str] | None) -> str:
    chart = as_mermaid(picture)
    if filename is not None:
        _write(Path(filename), chart + "\n")
    return chart


def _write(path: Path, text: str) -> None:
    """Write to a temporary file, then replace: a reader sees the old file or the new one."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # The permissions of a file made by open(): mkstemp makes a private one.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise

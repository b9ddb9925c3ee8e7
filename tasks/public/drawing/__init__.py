"""`umbel.drawing`: drawings of workflows and of runs."""

from umbel.tasks.drawing.draw import (
    NotebookDrawing,
    draw_all_possible_flows,
    draw_all_possible_flows_mermaid,
    draw_most_recent_execution,
    draw_most_recent_execution_mermaid,
)

__all__ = [
    "NotebookDrawing",
    "draw_all_possible_flows",
    "draw_all_possible_flows_mermaid",
    "draw_most_recent_execution",
    "draw_most_recent_execution_mermaid",
]

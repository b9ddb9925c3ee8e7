"""What is drawn: boxes, arrows between them, and a table with the same content. Independent of any format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Look = Literal[
    "step",
    "event",
    "start",
    "stop",
    "external",
    "resource",
    "config",
    "child",
    # Of a past run:
    "done",
    "failed",
    "waiting",
    "pending",
    "omitted",
]
Line = Literal["plain", "thick", "dashed"]


@dataclass(frozen=True, slots=True)
class Box:
    """A node.

    Attributes:
        id: Unique in its picture.
        look: Its kind; decides shape and colour. Nothing is shown by colour alone.
        label: Its name.
        detail: Smaller lines below the name.
        title: The tooltip, also read by screen readers.
    """

    id: str
    look: Look
    label: str
    detail: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Arrow:
    """An edge.

    Attributes:
        source: Id of the box it leaves.
        target: Id of the box it leads to.
        label: The text on it.
        line: `thick` is a fan-out or fan-in, `dashed` a failure.
    """

    source: str
    target: str
    label: str = ""
    line: Line = "plain"


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing, independent of its format.

    Attributes:
        title: The name of what is drawn.
        summary: One sentence about it.
        facts: Facts about the whole, as (name, value).
        boxes: The nodes.
        arrows: The edges; both ends are boxes.
        headings: The header of the table.
        rows: The rows of the table.
        remarks: Notes for the reader, such as what was left out.
    """

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    remarks: tuple[str, ...] = ()


def shortened(label: str, max_length: int | None) -> str:
    """The label, cut to at most `max_length` characters; `*` at its end marks a cut label."""
    return label if not max_length or len(label) <= max_length else f"{label[: max_length - 1]}*"

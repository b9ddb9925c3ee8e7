"""A `Picture` as one HTML file: an SVG and a table with the same content. It loads nothing and needs no script."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from .layout import Placed, Point, lay_out
from .picture import Arrow, Box, Look, Picture

#: Width of one character in labels and in details (monospaced, 13 and 11 px), in pixels.
LABEL_CHARACTER, DETAIL_CHARACTER = 7.9, 6.7
#: Height of one line of details, in pixels.
DETAIL_LINE = 15.0
#: Visible area assumed for a screen, in pixels; the layout direction that fits it better is chosen.
SCREEN = (1100.0, 700.0)
MARGIN = 16.0

#: Names of the box kinds in the legend.
_NAMES: dict[Look, str] = {
    "step": "step",
    "event": "event",
    "start": "start of a run",
    "stop": "end of a run",
    "external": "outside the workflow",
    "resource": "resource",
    "config": "configuration",
    "child": "another workflow",
    "done": "done",
    "failed": "failed",
    "waiting": "waits for an event",
    "pending": "not ended",
    "omitted": "left out",
}
_FLAT: tuple[Look, ...] = ("event", "start", "stop", "child", "omitted")


def as_html(picture: Picture) -> str:
    """The complete HTML file."""
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    looks = dict.fromkeys(box.look for box in picture.boxes)
    lines = {arrow.line for arrow in picture.arrows}
    legend = [f'<li><span class="swatch {look}"></span>{escape(_NAMES[look])}</li>' for look in looks]
    legend += [f'<li><span class="line {line}"></span>{word}</li>' for line, word in _LINES if line in lines]
    return template.substitute(
        title=escape(picture.title),
        summary=escape(picture.summary),
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in picture.facts),
        remarks="".join(f"<p>{escape(remark)}</p>" for remark in picture.remarks),
        svg=as_svg(picture),
        legend="".join(legend),
        table=_table(picture.headings, picture.rows),
    )


_LINES = (("thick", "fan-out / fan-in"), ("dashed", "failure"))


def as_svg(picture: Picture) -> str:
    """Only the SVG; the page defines its CSS classes."""
    placed = best_layout(picture)
    boxes = {box.id: box for box in picture.boxes}
    width, height = placed.width + 2 * MARGIN, placed.height + 2 * MARGIN
    words = f"{len(boxes)} boxes and {len(picture.arrows)} arrows. The table below describes each step."
    parts = [
        f'<svg role="img" aria-labelledby="picture-title picture-words" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{-MARGIN:g} {-MARGIN:g} {width:.0f} {height:.0f}" xmlns="http://www.w3.org/2000/svg">',
        f'<title id="picture-title">{escape(picture.title)}</title><desc id="picture-words">{words}</desc>',
        *(_marker(line) for line in ("plain", "thick", "dashed")),
        *(_arrow(arrow, path, placed.sideways) for arrow, path in zip(picture.arrows, placed.paths, strict=True)),
        *(_box(boxes[name], center) for name, center in placed.centers.items()),
        "</svg>",
    ]
    return "\n".join(parts)


def best_layout(picture: Picture) -> Placed:
    """The layout from top to bottom if that fits the screen, else the direction that needs less scrolling."""
    sizes = {box.id: box_size(box) for box in picture.boxes}
    ends = [(arrow.source, arrow.target) for arrow in picture.arrows]
    upright = lay_out(sizes, ends)
    if _scrolling(upright) <= 1:
        return upright
    return min(upright, lay_out(sizes, ends, sideways=True), key=_scrolling)


def _scrolling(placed: Placed) -> float:
    return max(placed.width / SCREEN[0], placed.height / SCREEN[1])


# -- boxes ---------------------------------------------------------------------------------------------------------


def _units(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def box_size(box: Box) -> tuple[float, float]:
    """Width and height of a box that fits its text."""
    details = box.detail.splitlines()
    width = max(_units(box.label) * LABEL_CHARACTER, *(_units(line) * DETAIL_CHARACTER for line in details), 0) + 28
    height = (28.0 if box.look in _FLAT else 36.0) + DETAIL_LINE * len(details)
    return max(width, 56.0), height


def _box(box: Box, center: Point) -> str:
    width, height = box_size(box)
    x, y = center[0] - width / 2, center[1] - height / 2
    details = box.detail.splitlines()
    lines = [f'<g class="box {box.look}" data-id="{escape(box.id)}"><title>{escape(box.title or box.label)}</title>']
    if box.look in ("resource", "config"):
        lines.append(_hexagon(x, y, width, height))
    else:
        corner = 14 if box.look in _FLAT else 7
        size = f'width="{width:.1f}" height="{height:.1f}" rx="{corner}"'
        lines.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size}/>')
    at = center[1] + 4.5 - DETAIL_LINE * len(details) / 2
    lines.append(f'<text x="{center[0]:.1f}" y="{at:.1f}">{escape(box.label)}</text>')
    for number, detail in enumerate(details, 1):
        below = at + 1 + DETAIL_LINE * number
        lines.append(f'<text class="detail" x="{center[0]:.1f}" y="{below:.1f}">{escape(detail)}</text>')
    return "".join([*lines, "</g>"])


def _hexagon(x: float, y: float, width: float, height: float) -> str:
    cut = 9
    points = [
        (x + cut, y),
        (x + width - cut, y),
        (x + width, y + height / 2),
        (x + width - cut, y + height),
        (x + cut, y + height),
        (x, y + height / 2),
    ]
    return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'


# -- arrows --------------------------------------------------------------------------------------------------------


def _marker(line: str) -> str:
    return (
        f'<marker id="head-{line}" class="head {line}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" '
        'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.5 L8 4 L0 7.5 z"/></marker>'
    )


def _arrow(arrow: Arrow, path: Sequence[Point], sideways: bool) -> str:
    drawn = (
        f'<g class="arrow {arrow.line}" data-from="{escape(arrow.source)}" data-to="{escape(arrow.target)}">'
        f'<path d="{arrow_path(arrow, path, sideways)}" marker-end="url(#head-{arrow.line})"/>'
    )
    if arrow.label:
        x, y = label_place(path)
        drawn += f'<text x="{x:.1f}" y="{y:.1f}">{escape(arrow.label)}</text>'
    return f"{drawn}</g>"


def arrow_path(arrow: Arrow, path: Sequence[Point], sideways: bool) -> str:
    """The SVG path of an arrow through these points."""
    return _loop(path) if arrow.source == arrow.target else _curve(path, sideways)


def label_place(path: Sequence[Point]) -> Point:
    """The position of an arrow's label: the middle of its path."""
    middle = len(path) // 2
    x, y = ((a + b) / 2 for a, b in zip(path[middle - 1], path[middle], strict=True))
    return x, y + 4


def _loop(path: Sequence[Point]) -> str:
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = path
    return f"M{ax:.1f} {ay:.1f} C{bx:.1f} {by:.1f} {cx:.1f} {cy:.1f} {dx:.1f} {dy:.1f}"


def _curve(path: Sequence[Point], sideways: bool) -> str:
    """Straight within a layer, an S-curve between layers that meets them at right angles."""
    parts = [f"M{path[0][0]:.1f} {path[0][1]:.1f}"]
    for number in range(1, len(path)):
        (ax, ay), (bx, by) = path[number - 1], path[number]
        if abs(ax - bx) + abs(ay - by) < 0.1:
            continue  # a zero-length last segment would leave the arrowhead without a direction
        if number % 2:
            parts.append(f"L{bx:.1f} {by:.1f}")
        elif sideways:
            parts.append(f"C{(ax + bx) / 2:.1f} {ay:.1f} {(ax + bx) / 2:.1f} {by:.1f} {bx:.1f} {by:.1f}")
        else:
            parts.append(f"C{ax:.1f} {(ay + by) / 2:.1f} {bx:.1f} {(ay + by) / 2:.1f} {bx:.1f} {by:.1f}")
    return " ".join(parts)


# -- words ---------------------------------------------------------------------------------------------------------


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if head else ""

"""A `Picture` as a Mermaid flowchart, which GitHub and many editors render."""

from __future__ import annotations

import re

from .picture import Box, Look, Picture

#: Opening and closing delimiters of a node; the shape shows its kind.
_SHAPES: dict[Look, tuple[str, str]] = {
    "event": ("([", "])"),
    "start": ("([", "])"),
    "stop": ("([", "])"),
    "external": ("[/", "/]"),
    "resource": ("{{", "}}"),
    "config": ("{{", "}}"),
    "omitted": ("([", "])"),
}
_COLOURS: dict[Look, str] = {
    "step": "fill:#e8f0fd,stroke:#4a76c0",
    "event": "fill:#f1f3f6,stroke:#98a2b3",
    "start": "fill:#e6f5ea,stroke:#3f8f5a",
    "stop": "fill:#fdeee0,stroke:#c1762b",
    "external": "fill:#fbf6dd,stroke:#a08a2a,stroke-dasharray:6 3",
    "resource": "fill:#f3eafb,stroke:#8c5bb5",
    "config": "fill:#f3eafb,stroke:#8c5bb5,stroke-dasharray:6 3",
    "child": "fill:#f1f3f6,stroke:#98a2b3,stroke-dasharray:4 3",
    "done": "fill:#e8f0fd,stroke:#4a76c0",
    "failed": "fill:#fdebea,stroke:#c0362c,stroke-width:3px",
    "waiting": "fill:#fdf5dc,stroke:#a67c00",
    "pending": "fill:#f1f3f6,stroke:#98a2b3,stroke-dasharray:4 3",
    "omitted": "fill:#f1f3f6,stroke:#98a2b3,stroke-dasharray:4 3",
}
_ARROWS = {"plain": "-->", "thick": "==>", "dashed": "-.->"}


def as_mermaid(picture: Picture) -> str:
    """The flowchart; its last lines define the colours."""
    names = _names(picture)
    lines = ["flowchart TD"]
    for box in picture.boxes:
        opening, closing = _SHAPES.get(box.look, ("[", "]"))
        label = "<br/>".join(_quoted(line) for line in [box.label, *box.detail.splitlines()])
        lines.append(f'    {names[box.id]}{opening}"{label}"{closing}:::{_class(box.look)}')
    for arrow in picture.arrows:
        label = f'|"{_quoted(arrow.label)}"|' if arrow.label else ""
        lines.append(f"    {names[arrow.source]} {_ARROWS[arrow.line]}{label} {names[arrow.target]}")
    looks = dict.fromkeys(box.look for box in picture.boxes)
    lines.extend(f"    classDef {_class(look)} {_COLOURS[look]},color:#1c2330" for look in looks)
    return "\n".join(lines)


def _class(look: Look) -> str:
    return f"{look}Style"


def _names(picture: Picture) -> dict[str, str]:
    """Mermaid ids by box id. They begin with the kind of the box, so that none is a Mermaid keyword such as `end`."""
    taken: set[str] = set()
    names: dict[str, str] = {}
    for box in picture.boxes:
        name = stem = f"{_kind(box)}_{re.sub(r'[^0-9A-Za-z_]', '_', box.id)}"
        number = 2
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        names[box.id] = name
    return names


def _kind(box: Box) -> str:
    return "event" if box.look in ("event", "start", "stop") else box.look


def _quoted(text: str) -> str:
    """The text escaped for a quoted label: Mermaid reads it as HTML, with `#` for `&`."""
    for character in '#&<>"`':
        text = text.replace(character, f"\0{ord(character)};")
    return text.replace("\0", "#").replace("\n", " ")

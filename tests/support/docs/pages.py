"""Parsed documentation pages: code blocks with their expected output, tables, code spans, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import umbel

#: The repository root, which is the package.
ROOT = Path(umbel.__file__).resolve().parent
#: All pages, as paths from the root.
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        page: The page it is on.
        line: Line number of its first line.
        language: The language of the fence. `python` is umbel code, `py` is another library's, shown for comparison.
        text: Its content.
        output: The `text` block that follows it directly, if any.
    """

    page: str
    line: int
    language: str
    text: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_program(self) -> bool:
        """Whether it is a whole program and not an excerpt."""
        return self.language == "python" and re.search(r"^(from|import) ", self.text, re.MULTILINE) is not None

    @property
    def is_self_contained(self) -> bool:
        """Whether it starts everything it needs, so that it runs without `umbel exec`."""
        return "umbel.local(" in self.text


@cache
def page(name: str) -> str:
    """Return a page's text."""
    return (ROOT / name).read_text()


def blocks(name: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page(name)
    found = list(_FENCE.finditer(text))
    made = []
    for match, behind in pairwise([*found, None]):
        assert match is not None
        is_output = behind is not None and behind[1] == "text" and not text[match.end() : behind.start()].strip()
        line = text.count("\n", 0, match.start()) + 2
        made.append(Block(name, line, match[1], match[2], behind[2] if behind is not None and is_output else None))
    return made


def spans(name: str) -> list[str]:
    """Return the code spans of a page's prose, tables and headings."""
    return _SPAN.findall(_FENCE.sub("", page(name)))


def code(name: str) -> list[str]:
    """Return what a reader may type: each line of the shell blocks, without its comment, and each code span."""
    lines = [line for block in blocks(name) if block.language == "sh" for line in block.text.splitlines()]
    return [*(line.partition(" #")[0].strip() for line in lines), *spans(name)]


def table(name: str, *headings: str) -> dict[str, list[str]]:
    """Return the rows of the table with these headings: first cell -> the others."""
    lines = page(name).splitlines()
    start = lines.index(f"| {' | '.join(headings)} |")
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split(" | "))
        assert first not in rows, f"{name} has two rows for {first}"
        assert len(others) == len(headings) - 1, f"{name}: {line}"
        rows[first] = others
    return rows

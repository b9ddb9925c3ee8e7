"""The places marked by failpoints, read from the source code."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from umbel.orchestration.store.scripts import names

ROOT = Path(__file__).resolve().parents[3]

#: Scripts that are sent only in read-only pipelines: no failpoint has their name.
ONLY_READ = {"glances", "past"}


@cache
def marked() -> set[tuple[str, str]]:
    """Return name and moment of each place that is marked individually; scripts share one marker."""
    sources = [path for folder in ("orchestration", "tasks", "workers") for path in (ROOT / folder).rglob("*.py")]
    texts = [path.read_text() for path in sources]
    commands = {
        name for text in texts for name in re.findall(r'\.command\([^()]*(?:\([^()]*\)[^()]*)*, name="(\w+)"\)', text)
    }
    of_commands = {(name, moment) for name in commands for moment in ("before", "after")}
    return of_commands | {place for text in texts for place in re.findall(r'failpoint\("(\w+)", "(\w+)"', text)}


@cache
def every_place() -> frozenset[str]:
    """Return `name.moment` of all places."""
    of_scripts = {(verb, moment) for verb in set(names()) - ONLY_READ for moment in ("before", "after")}
    return frozenset(f"{name}.{moment}" for name, moment in marked() | of_scripts | {("push", "after")})

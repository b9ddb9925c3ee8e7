"""The page that guides through the code keeps its promise: a dozen Python files and five Lua files, which all exist."""

from __future__ import annotations

import re

from support.docs.pages import ROOT

PAGE = (ROOT / "docs" / "how-an-event-travels.md").read_text()
TABLE = PAGE.partition("## Blocking callers")[0].partition("| --- | --- | --- |")[2].partition("\n\n")[0]


def files(ending: str) -> set[str]:
    """Return the files that the table names."""
    return set(re.findall(rf"`([\w/]+\.{ending})`", TABLE))


def test_an_event_travels_through_at_most_twelve_python_files() -> None:
    assert 0 < len(files("py")) <= 12


def test_an_event_travels_through_at_most_five_lua_files() -> None:
    assert 0 < len(files("lua")) <= 5


def test_every_file_on_the_way_exists() -> None:
    assert [name for name in files("py") | files("lua") if not (ROOT / name).is_file()] == []

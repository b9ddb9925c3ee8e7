"""The limits of files and folders: a longer file or a larger folder is about more than one subject."""

from __future__ import annotations

from pathlib import Path

from support.docs.pages import ROOT

FLOORS = ("orchestration", "server", "tasks", "workers")
MOST_LINES, MOST_FILES = 400, 12


def test_no_file_of_code_is_too_long() -> None:
    folders = (*FLOORS, "benchmarks", "examples", "scripts", "tests")
    code = [
        *ROOT.glob("*.py"),
        *(path for each in folders for ending in ("py", "lua", "js") for path in (ROOT / each).rglob(f"*.{ending}")),
    ]
    own = [path for path in code if "node_modules" not in path.parts]

    assert [(name_of(path), lines) for path in own if (lines := lines_of(path)) > MOST_LINES] == []


def test_no_room_has_too_many_files() -> None:
    rooms = {path.parent for floor in FLOORS for path in (ROOT / floor).rglob("__init__.py")}
    files = {name_of(room): len({*room.glob("*.py")} - {room / "__init__.py"}) for room in rooms}

    assert {room: number for room, number in files.items() if number > MOST_FILES} == {}


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()

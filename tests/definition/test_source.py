"""The code of a workflow is its file and the user modules that it uses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from umbel import StartEvent, StopEvent, Workflow, step
from umbel.tasks.workflow.source import source_of

FILES = {
    "__init__.py": "",
    "flow.py": """
from umbel import StartEvent, StopEvent, Workflow, step
import json
from . import words
from .deep.more import MORE
try:
    from .deep import other
except ImportError:
    pass


class Say(Workflow):
    @step
    async def say(self, ev: StartEvent) -> StopEvent:
        from . import late
        return StopEvent(result=words.WORD)
""",
    "words.py": "WORD = 'one'",
    "late.py": "",
    "unused.py": "",
    "deep/__init__.py": "",
    "deep/more.py": "from ..words import WORD\nMORE = 1",
    "deep/other.py": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of a user."""
    folder = tmp_path / "spoken"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [each for each in sys.modules if each.partition(".")[0] == "spoken"]:
        del sys.modules[name]


def test_a_change_of_any_module_that_it_imports_changes_its_digest(package: Path) -> None:
    flow = importlib.import_module("spoken.flow").Say()
    before = source_of(type(flow))
    assert before is not None
    assert before.file == str(package / "flow.py")
    assert source_of(type(flow)) == before

    for name in ("unused.py", "late.py"):
        (package / name).write_text("CHANGED = 1")
        assert source_of(type(flow)) == before, name

    for name in ("words.py", "deep/more.py", "deep/other.py", "flow.py"):
        (package / name).write_text(FILES[name] + "\n# changed")
        after = source_of(type(flow))
        assert after is not None
        assert after != before, name
        before = after


def test_code_that_no_longer_parses_or_exists_is_other_code(package: Path) -> None:
    flow = importlib.import_module("spoken.flow").Say()
    before = source_of(type(flow))

    (package / "words.py").write_text("WORD = ")
    broken = source_of(type(flow))
    (package / "words.py").unlink()

    assert len({before, broken, source_of(type(flow))}) == 3


def test_a_workflow_in_no_file_has_no_source() -> None:
    class Here(Workflow):
        @step
        async def say(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    Here.__module__ = "a_notebook_cell"

    assert source_of(Here) is None

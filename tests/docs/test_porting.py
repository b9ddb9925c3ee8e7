"""The claims of the porting page about names and programs of LlamaIndex Workflows."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from test_code_blocks import umbel

from support.docs.pages import blocks, table

PAGE = "docs/porting.md"
MODULES = table(PAGE, "there", "here", "names")


@pytest.mark.parametrize("there", MODULES)
def test_a_module_of_the_table_has_the_names_that_are_said_to_be_there(there: str) -> None:
    here, names = MODULES[there]
    module = importlib.import_module(here.strip("`"))
    offered = {*module.__all__, "basic_runtime"}  # the last one exists once there is a Redis

    assert [name for name in re.findall(r"`(\w+)`", names) if name not in offered] == []


@pytest.mark.parametrize("there", [there for there in MODULES if there.startswith("`workflows.")])
def test_only_the_root_of_a_modules_name_changes(there: str) -> None:
    assert MODULES[there][0] == there.replace("workflows", "umbel")


def test_the_program_from_before_needs_nothing_but_another_import_root(tmp_path: Path) -> None:
    [before] = [block for block in blocks(PAGE) if block.language == "py" and "from workflows" in block.text]
    [after] = [block for block in blocks(PAGE) if block.is_program and "class Translation(" in block.text]
    ported = re.sub(r"^(from|import) workflows\b", r"\1 umbel", before.text, flags=re.MULTILINE)
    (tmp_path / "flow.py").write_text(ported)

    assert umbel(tmp_path, "exec", "flow.py").stdout == after.output

"""Lua is constant text from the package: no text of a user or caller becomes part of a script or a pattern.

That every key is passed in KEYS is tested in `tests/store/test_script_keys.py`.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import umbel
from umbel.orchestration.store.scripts import Library, code, library

PACKAGE = Path(umbel.__file__).parent
FILES = sorted(
    path for folder in ("orchestration", "tasks", "workers", "server") for path in (PACKAGE / folder).rglob("*.py")
)
LUA = sorted((PACKAGE / "orchestration" / "store" / "lua").rglob("*.lua"))


def strings(path: Path) -> list[ast.Constant | ast.JoinedStr]:
    """Return all strings of a file."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant | ast.JoinedStr)]
    return [node for node in found if isinstance(node, ast.JoinedStr) or isinstance(node.value, str)]


def test_lua_is_never_put_together() -> None:
    """One script has no file of its own: the one that takes dispatches off the broker's list."""
    with_lua = [(path.name, node) for path in FILES for node in strings(path) if "redis.call" in ast.unparse(node)]

    assert [(name, type(node).__name__) for name, node in with_lua] == [("channel.py", "Constant")]


def test_scripts_are_sent_from_few_places_that_know_only_these() -> None:
    senders = {
        path.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ("eval", "evalsha", "register_script", "script_load"))
        or (isinstance(node, ast.Constant) and node.value in ("EVAL", "EVALSHA", "FCALL"))
    }

    assert senders == {"asks.py", "channel.py", "examine.py"}  # the doctor calls a function that does not exist


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.name)
def test_a_script_evaluates_nothing_and_reaches_for_nothing(path: Path) -> None:
    code = re.sub(r"--.*", "", path.read_text())

    assert (
        re.findall(r"\b(?:loadstring|load|dofile|loadfile|require|setfenv|getfenv|os|io|debug|_G)\s*[(.\[]", code) == []
    )
    # The command is always a literal.
    assert len(re.findall(r"redis\.call\('[A-Z]+'", code)) == code.count("redis.call")


def test_the_library_is_the_same_every_time() -> None:
    assert Library.of(code()) == library()
    assert "%s" not in library().text


def test_nothing_lists_or_flushes_a_database() -> None:
    """`KEYS` blocks the server and takes a pattern, `FLUSHALL` deletes everything; one place builds patterns."""
    code = {path: ast.unparse(ast.parse(path.read_text())) for path in FILES}

    assert [
        path.name for path, text in code.items() if re.search(r"client\.keys\(|\.flushall\(|\.flushdb\(", text)
    ] == []
    assert {path.name for path, text in code.items() if re.search(r"scan\w*\(.*match=", text)} <= {"leases.py"}

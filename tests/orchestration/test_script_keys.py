"""Every Lua file declares the keys it touches: told by reading, since a missing one shows only when reached."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import umbel.orchestration.store.scripts as scripts
from umbel.orchestration.store.keys import DYNAMIC_KEYS, OTHER_KEYS, RUN_KEYS, SHARD_KEYS
from umbel.orchestration.store.scripts import load, names

LUA = Path(scripts.__file__).with_name("lua")
FILES = sorted(LUA.rglob("*.lua"))
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=[path.relative_to(LUA).as_posix() for path in FILES])

#: Fixed keys that a caller names after something: `owner` is `owner:<name>` and so on.
NAMED_BY_CALLER = {part for name in OTHER_KEYS for part in name.split(":") if "<" not in part} | set(DYNAMIC_KEYS)

_CALL = re.compile(r"redis\.call\(\s*'([A-Z]+)'\s*,?\s*([^,)\s]*(?:\[[^\]]*\])?)")
_KEY = re.compile(r"\bK\.(\w+)|\bK\['([\w:]+)'\]|\bK\[(name)\]|(K\['runs:' \.\. \w+\])")


def code_of(path: Path) -> str:
    """The file without comments and directives."""
    return re.sub(r"--.*", "", path.read_text())


@EVERY_FILE
def test_a_script_touches_only_keys_it_was_given(path: Path) -> None:
    code = code_of(path)
    locals_from_x = set(re.findall(r"local (\w+) = X\[", code)) | set(re.findall(r"for _, (\w+) in pairs\(X\)", code))
    for command, key in _CALL.findall(code):
        given = re.match(r"K\.\w+$|K\[|X\[", key) is not None or key in locals_from_x
        assert given or command == "TIME", f"{path.name}: {command} {key}"


def test_the_check_above_sees_every_call() -> None:
    for path in FILES:
        code = code_of(path)
        assert len(_CALL.findall(code)) == code.count("redis.call"), path.name
        assert set(re.findall(r"redis\.(\w+)", code)) <= {"call", "sha1hex"}, path.name


@cache
def functions(part: str) -> dict[str, str]:
    """The functions of a shared part, by name, with their text."""
    code = code_of(LUA / "lib" / f"{part}.lua")
    found = {}
    for match in re.finditer(r"^(?:local )?function ([\w.]+)\(.*?^end$", code, re.MULTILINE | re.DOTALL):
        found[match[1]] = match[0]
    for match in re.finditer(r"^local function (\w+)\(.*\) (?:return|.*?) end$", code, re.MULTILINE):
        found.setdefault(match[1], match[0])
    return found


def reached(verb: str) -> str:
    """The verb's text with that of every shared function it can get to."""
    body = code_of(LUA / f"{verb}.lua")
    includes = re.search(r"^--!include (.+)$", (LUA / f"{verb}.lua").read_text(), re.MULTILINE)
    known: dict[str, str] = {}
    for part in includes[1].split() if includes else ():
        known |= functions(part)
    text, todo, seen = body, [body], set()
    while todo:
        here = todo.pop()
        for name, code in known.items():
            called = "APPLY[" in here if name.startswith("APPLY.") else re.search(rf"\b{name}\b", here)
            if name not in seen and called:
                seen.add(name)
                text += code
                todo.append(code)
    # `APPLY.open = open_scope` and its like hand a function on under another name.
    if "APPLY[" in text:
        for alias in ("open_scope", "absorb", "join"):
            if alias not in seen and alias in known:
                text += known[alias]
    return text


@pytest.mark.parametrize("verb", names())
def test_a_script_declares_every_key_it_can_reach(verb: str) -> None:
    declared = set(load(verb).keys)
    text = reached(verb)
    used = set()
    for plain, quoted, _, by_status in _KEY.findall(text):
        used |= {f"runs:{s}" for s in ("completed", "failed", "cancelled", "timed_out")} if by_status else set()
        used |= {plain or quoted} if plain or quoted else set()
    if "K[name]" in text:
        used |= set(re.findall(r"'(\w+)'", retained()))

    assert used - declared == set()


def retained() -> str:
    """The lists that `finish` walks."""
    code = code_of(LUA / "lib" / "finish.lua")
    return code[: code.index("local function finish")]


@pytest.mark.parametrize("verb", names())
def test_declared_keys_are_in_the_table_of_keys(verb: str) -> None:
    for name in load(verb).keys:
        assert name in RUN_KEYS or name in SHARD_KEYS or name in NAMED_BY_CALLER, name


def test_every_key_of_a_run_that_may_outlive_it_is_given_its_lifetime() -> None:
    kept = set(re.findall(r"'(\w+)'", retained().split("local SPENT")[0]))

    assert kept == set(RUN_KEYS)


@pytest.mark.parametrize("verb", names())
def test_a_script_stays_far_from_the_limits_of_lua(verb: str) -> None:
    """200 locals per function, 60 upvalues: a script that compiles near them breaks at the next line."""
    text = load(verb).text
    assert len(re.findall(r"^local ", text, re.MULTILINE)) < 120

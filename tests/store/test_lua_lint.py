"""The lint of the Lua scripts finds planted problems."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import umbel

LINT = runpy.run_path(str(Path(umbel.__file__).parent / "scripts" / "lint_lua.py"))


def found(text: str) -> list[tuple[int, str]]:
    """Return what it finds in a script, including unused locals."""
    resolver = LINT["resolve"](text)
    unused = [(each.line, f"unused local '{each.name}'") for each in resolver.locals if not each.is_read]
    return sorted(resolver.findings + unused)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("local a = 1\nreturn b", "undeclared global 'b'"),
        ("local function f()\n  return late end\nlocal late = f()", "undeclared global 'late'"),
        ("do local a = 1 redis.log(1, a) end\nreturn a", "undeclared global 'a'"),
        ("local t = {}\nt.x, y = 1, 2", "assignment to global 'y'"),
        ("\nfunction f() return 1 end", "assignment to global 'f'"),
        ("local a = 1\nlocal a = 2 return a", "local 'a' is declared twice in one block"),
        ("\nfor i, v in ipairs(KEYS) do redis.call('GET', v) end", "unused local 'i'"),
        ("\nlocal x\nx = ARGV[1]", "unused local 'x'"),
    ],
)
def test_a_planted_problem_is_found_on_its_line(text: str, problem: str) -> None:
    assert (2, problem) in found(text)


def test_a_script_without_problems_has_none() -> None:
    text = """
        local M = { n = 0, ['a b'] = 1 }
        local function walk(t, depth) return depth > 3 and t or walk(t.next, depth + 1) end
        function M.add(k) M.n = M.n + k end
        for _, key in ipairs(KEYS) do M.add(walk(cjson.decode(redis.call('GET', key)), 0)) end
        repeat local done = M.n > 0 until done
        return M.n
    """
    assert found(text) == []


def test_all_scripts_are_free_of_name_problems() -> None:
    assert list(LINT["_lint_names"]()) == []

"""Every Lua file declares the keys and parts it uses; read from its text, as a missing one shows late."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import umbel.orchestration.store.scripts as scripts
from umbel.orchestration.store.keys import DYNAMIC_KEYS, OTHER_KEYS, RUN_KEYS, SHARD_KEYS
from umbel.orchestration.store.record import VERSION, WorkRecord
from umbel.orchestration.store.scripts import declared, load, names, record_fields, stored_fields

LUA = Path(scripts.__file__).with_name("lua")
FILES = sorted(LUA.rglob("*.lua"))
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=[path.relative_to(LUA).as_posix() for path in FILES])

#: Fixed keys that a caller names after something: `owner` is `owner:<name>` and so on.
NAMED_BY_CALLER = {part for name in OTHER_KEYS for part in name.split(":") if "<" not in part} | set(DYNAMIC_KEYS)

_CALL = re.compile(r"redis\.call\(\s*'([A-Z]+)'\s*,?\s*([^,)\s]*(?:\[[^\]]*\])?)")
_KEY = re.compile(r"\bK\.(\w+)|\bK\['([\w:]+)'\]|(K\['runs:' \.\. \w+\])")
#: What the loader fills in.
LISTS = ("{--[[retained]]}", "{--[[spent]]}")


def code_of(path: Path) -> str:
    """The file without comments and directives."""
    return re.sub(r"--(?:\[\[.*?\]\]|.*)", "", path.read_text())


@EVERY_FILE
def test_a_script_touches_only_keys_it_was_given(path: Path) -> None:
    code = code_of(path)
    locals_from_x = set(re.findall(r"local (\w+) = X\[", code)) | set(
        re.findall(r"for _, (\w+) in (?:pairs\(X\)|ipairs\((?:retained|spent)_keys\(\)\))", code)
    )
    for command, key in _CALL.findall(code):
        given = re.match(r"K\.\w+$|K\[|X\[", key) is not None or key in locals_from_x
        assert given or command == "TIME", f"{path.name}: {command} {key}"


def test_the_check_above_sees_every_call() -> None:
    for path in FILES:
        code = code_of(path)
        assert len(_CALL.findall(code)) == code.count("redis.call"), path.name
        assert set(re.findall(r"redis\.(\w+)", code)) <= {"call", "sha1hex"}, path.name


@EVERY_FILE
def test_a_file_declares_exactly_the_keys_it_touches_itself(path: Path) -> None:
    code = code_of(path)
    touched: set[str] = set()
    for plain, quoted, by_status in _KEY.findall(code):
        touched |= {f"runs:{s}" for s in ("completed", "failed", "cancelled", "timed_out")} if by_status else set()
        touched |= {plain or quoted} if plain or quoted else set()
    for listed in re.findall(r"for _, name in ipairs\(\{(.*?)\}\) do [^\n]*K\[name\]", code):
        touched |= set(re.findall(r"'(\w+)'", listed))
    if any(placeholder in path.read_text() for placeholder in LISTS):
        touched.add("run:*")

    assert sorted(declared(path.read_text(), "keys")) == sorted(touched)


@cache
def defined(part: str) -> frozenset[str]:
    """The names that a shared part defines for what includes it."""
    code = code_of(LUA / "lib" / f"{part}.lua")
    functions = re.findall(r"^local function (\w+)", code, re.MULTILINE)
    variables = re.findall(r"^local (?!function)([\w, ]+?) *(?:=|$)", code, re.MULTILINE)
    return frozenset(functions) | {name.strip() for names in variables for name in names.split(",")}


def used(path: Path) -> set[str]:
    """Names that a file uses and does not define itself; fields, strings and its own locals left out."""
    code = re.sub(r"'[^'\n]*'", "''", code_of(path))
    code = re.sub(r"(?<!\.)\.\w+", "", code)
    locals_of_file = re.findall(r"\blocal (?:function )?(\w[\w, ]*)|\bfor ([\w, ]+) in\b", code)
    own = {name for pair in locals_of_file for name in re.findall(r"\w+", "".join(pair))}
    code = re.sub(r"\blocal (?!function)[^=\n]*", "", code)
    code = re.sub(r"([{,]\s*)\w+ = ", r"\1", code)
    return set(re.findall(r"\b[A-Za-z_]\w*\b", code)) - own


@EVERY_FILE
def test_a_file_includes_exactly_the_parts_whose_names_it_uses(path: Path) -> None:
    names_used = used(path)
    parts = {part.stem for part in FILES if part.parent.name == "lib" and part != path}

    assert set(declared(path.read_text(), "include")) == {part for part in parts if defined(part) & names_used}


def test_no_two_parts_define_the_same_name() -> None:
    every = [name for path in FILES if path.parent.name == "lib" for name in defined(path.stem)]

    assert sorted(every) == sorted(set(every))


@pytest.mark.parametrize("verb", names())
def test_a_part_comes_after_the_parts_it_includes_and_once(verb: str) -> None:
    text = load(verb).text
    places = {}
    for path in FILES:
        if path.parent.name == "lib":
            first = min(defined(path.stem), key=code_of(path).index)
            found = [match.start() for match in re.finditer(rf"^local (?:function )?{first}\b", text, re.MULTILINE)]
            assert len(found) <= 1, path.stem
            places[path.stem] = found[0] if found else -1
    for part, place in places.items():
        if place >= 0:
            for included in declared((LUA / "lib" / f"{part}.lua").read_text(), "include"):
                assert 0 <= places[included] < place, (part, included)


@pytest.mark.parametrize("verb", names())
def test_a_script_is_given_the_keys_of_all_its_parts(verb: str) -> None:
    texts = [LUA.joinpath(f"{verb}.lua").read_text()]
    for text in texts:
        texts += [LUA.joinpath("lib", f"{part}.lua").read_text() for part in declared(text, "include")]
    keys = {key for text in texts for key in declared(text, "keys")}

    assert set(load(verb).keys) == keys - {"run:*"} | (set(RUN_KEYS) if "run:*" in keys else set())


@pytest.mark.parametrize("verb", names())
def test_declared_keys_are_in_the_table_of_keys(verb: str) -> None:
    for name in load(verb).keys:
        assert name in RUN_KEYS or name in SHARD_KEYS or name in NAMED_BY_CALLER, name


def test_the_lists_of_a_runs_keys_come_from_the_table_of_keys() -> None:
    text = load("finish").text
    listed = dict(re.findall(r"local function (\w+)_keys\(\) return \{(.*?)\} end", text))
    found = {name: re.findall(r"K\['(\w+)'\]", keys) for name, keys in listed.items()}

    assert found == {"retained": list(RUN_KEYS), "spent": [name for name, key in RUN_KEYS.items() if key.spent]}
    assert "--[[" not in text


def test_python_and_lua_know_the_same_fields_of_a_work_record() -> None:
    assert set(record_fields()) == set(WorkRecord._fields)
    assert f"local RECORD_VERSION = {VERSION}\n" in (LUA / "lib" / "record.lua").read_text()


def test_words_for_fields_of_a_record_become_what_is_stored() -> None:
    code = "local record = { step = c.s, slot = 1 } next_record.state = record.token x.step = records.step"

    assert stored_fields(code) == "local record = { s = c.s, sl = 1 } next_record.st = record.t x.step = records.step"
    with pytest.raises(LookupError, match="no field 'stpe'"):
        stored_fields("record.stpe = 1")


@EVERY_FILE
def test_no_file_names_a_field_of_a_record_by_what_is_stored(path: Path) -> None:
    short = set(record_fields().values()) - set(record_fields())

    assert {word for word in re.findall(r"\b(?:\w+_)?record\.(\w+)", code_of(path)) if word in short} == set()


@pytest.mark.parametrize("verb", names())
def test_comments_stay_out_of_what_redis_is_sent(verb: str) -> None:
    assert "--" not in load(verb).text


@pytest.mark.parametrize("verb", names())
def test_a_script_stays_far_from_the_limits_of_lua(verb: str) -> None:
    """200 locals per function, 60 upvalues: a script that compiles near them breaks at the next line."""
    text = load(verb).text
    assert len(re.findall(r"^local ", text, re.MULTILINE)) < 120

"""Every Lua file declares the keys it touches; checked by reading the text, since a missing key is noticed late."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import umbel.orchestration.store.scripts as scripts
from umbel.orchestration.connection.cluster import slot_of
from umbel.orchestration.connection.keys import DYNAMIC_KEYS, OTHER_KEYS, RUN_KEYS, SHARD_KEYS, Keys
from umbel.orchestration.store.calls import fixed_keys
from umbel.orchestration.store.record import VERSION, WorkRecord
from umbel.orchestration.store.scripts import (
    LIBRARY_PREFIX,
    Library,
    code,
    declared,
    library,
    load,
    names,
    reached,
    record_fields,
    stored_fields,
    text_of,
)

LUA = Path(scripts.__file__).with_name("lua")
FILES = sorted(LUA.rglob("*.lua"))
PARTS = [path for path in FILES if path.parent.name == "lib"]
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=[path.relative_to(LUA).as_posix() for path in FILES])

#: Fixed keys with a name chosen by the caller: `owner` is `owner:<name>` and so on.
NAMED_BY_CALLER = {part for name in OTHER_KEYS for part in name.split(":") if "<" not in part} | set(DYNAMIC_KEYS)

_CALL = re.compile(r"redis\.call\(\s*'([A-Z]+)'\s*,?\s*([^,)\s]*(?:\[[^\]]*\])?)")
_KEY = re.compile(r"\bK\.(\w+)|\bK\['([\w:]+)'\]|(K\['runs:' \.\. \w+\])")
#: Placeholders that the loader fills in.
LISTS = ("{--[[retained]]}", "{--[[spent]]}")


def code_of(path: Path) -> str:
    """Return the file without comments and directives."""
    return re.sub(r"--(?:\[\[.*?\]\]|.*)", "", path.read_text())


@EVERY_FILE
def test_a_script_touches_only_keys_it_was_given(path: Path) -> None:
    text = code_of(path)
    locals_of_given = set(re.findall(r"local (\w+) = call\.(?:extra|named)\[", text)) | set(
        re.findall(r"for _, (\w+) in (?:pairs\(call\.named\)|ipairs\((?:lifetimes\.\w+\(\)|call\.keys)\))", text)
    )
    lists_of_given = set(re.findall(r"(\w+)\[2 \* i - 1\], \w+\[2 \* i\] = call\.named\[i\]", text))
    assert all(len(re.findall(rf"\b{name}\[", text)) == 2 for name in lists_of_given)
    lists = "|".join(["lifetimes", r"call\.named", *lists_of_given])
    for command, key in _CALL.findall(text):
        given = re.match(rf"K\.\w+$|K\[|call\.(?:extra|named)\[|unpack\((?:{lists})", key) or key in locals_of_given
        assert given or command in ("TIME", "MEMORY", "XINFO"), f"{path.name}: {command} {key}"


def test_the_journal_alone_is_asked_about_by_a_subcommand() -> None:
    asked = [(path.name, found) for path in FILES for found in re.findall(r"'XINFO', (.*?)\)", code_of(path))]

    assert asked == [("removed.lua", "'STREAM', K.journal")]


def test_memory_is_asked_for_only_of_a_key_that_was_given() -> None:
    asked = [
        (path.name, found) for path in FILES for found in re.findall(r"bounded\.affordable\((\S+),", code_of(path))
    ]

    assert [path.name for path in FILES if "'MEMORY'" in code_of(path)] == ["bounded.lua"]
    assert asked == [
        ("bounded.lua", "key"),
        ("journal.lua", "K.journal"),
        ("versions.lua", "K.versions"),
        ("waiters.lua", "K.inbox"),
        ("log.lua", "K.logs"),
    ]


def test_the_check_above_sees_every_call() -> None:
    for path in FILES:
        text = code_of(path)
        assert len(_CALL.findall(text)) == text.count("redis.call"), path.name
        assert set(re.findall(r"redis\.(\w+)", text)) <= {"call", "sha1hex"}, path.name


@EVERY_FILE
def test_a_file_declares_exactly_the_keys_it_touches_itself(path: Path) -> None:
    text = code_of(path)
    touched: set[str] = set()
    for plain, quoted, by_status in _KEY.findall(text):
        touched |= {f"runs:{s}" for s in ("completed", "failed", "cancelled", "timed_out")} if by_status else set()
        touched |= {plain or quoted} if plain or quoted else set()
    for listed in re.findall(r"for _, name in ipairs\(\{(.*?)\}\) do [^\n]*K\[name\]", text):
        touched |= set(re.findall(r"'(\w+)'", listed))
    if any(placeholder in path.read_text() for placeholder in LISTS):
        touched.add("run:*")
    if path.stem == "replay":  # it calls all other functions
        touched = {"every:*"}

    assert sorted(declared(path.read_text(), "keys")) == sorted(touched)


@pytest.mark.parametrize("verb", names())
def test_all_keys_of_a_script_on_a_run_are_in_one_slot_of_a_cluster(verb: str) -> None:
    keys = fixed_keys(Keys().of_run("some-session.some-run"), load(verb).keys)

    assert len({slot_of(key) for key in keys}) <= 1


@pytest.mark.parametrize("path", PARTS, ids=[path.stem for path in PARTS])
def test_what_a_part_offers_is_in_the_table_that_is_named_as_it(path: Path) -> None:
    offered = re.findall(r"^function (\w+)\.\w+", code_of(path), re.MULTILINE)

    assert set(offered) <= {path.stem, "APPLY", "PUT"}
    assert offered or path.stem == "call"


def test_no_local_hides_a_part() -> None:
    parts = {path.stem for path in PARTS}
    for path in FILES:
        declarations = re.findall(r"\blocal (?:function )?(\w[\w, ]*)|\bfor ([\w, ]+) in\b", code_of(path))
        own = {name for pair in declarations for name in re.findall(r"\w+", "".join(pair))}
        assert own & parts <= ({"call"} if path.stem == "call" else set()), path.name


def test_every_part_is_used() -> None:
    assert {part for name in names() for part in reached(text_of(name))} | {"call"} == {path.stem for path in PARTS}


@pytest.mark.parametrize("verb", names())
def test_a_script_is_given_the_keys_of_all_the_parts_it_reaches(verb: str) -> None:
    texts = [text_of(verb), *(LUA.joinpath("lib", f"{part}.lua").read_text() for part in reached(text_of(verb)))]
    keys = {key for text in texts for key in declared(text, "keys")}
    if "every:*" in keys:
        of_runs = [set(load(name).keys) for name in names() if name != verb and "run" in load(name).keys]
        keys = keys - {"every:*"} | set().union(*of_runs)

    assert set(load(verb).keys) == keys - {"run:*"} | (set(RUN_KEYS) if "run:*" in keys else set())


@pytest.mark.parametrize("verb", names())
def test_declared_keys_are_in_the_table_of_keys(verb: str) -> None:
    for name in load(verb).keys:
        assert name in RUN_KEYS or name in SHARD_KEYS or name in NAMED_BY_CALLER, name


def test_the_lists_of_a_runs_keys_come_from_the_table_of_keys() -> None:
    listed = dict(re.findall(r"function lifetimes\.(\w+)\(\) return \{(.*?)\} end", code()))
    found = {name: re.findall(r"K\['(\w+)'\]", keys) for name, keys in listed.items()}

    assert found == {"retained": list(RUN_KEYS), "spent": [name for name, key in RUN_KEYS.items() if key.spent]}
    assert "--[[" not in library().text


def test_python_and_lua_know_the_same_fields_of_a_work_record() -> None:
    assert set(record_fields()) == set(WorkRecord._fields)
    assert f"records.VERSION = {VERSION}\n" in (LUA / "lib" / "records.lua").read_text()


def test_words_for_fields_of_a_record_become_what_is_stored() -> None:
    text = "local record = { step = c.s, slot = 1 } next_record.state = record.token x.step = records.step"

    assert stored_fields(text) == "local record = { s = c.s, sl = 1 } next_record.st = record.t x.step = records.step"
    with pytest.raises(LookupError, match="no field 'stpe'"):
        stored_fields("record.stpe = 1")


@EVERY_FILE
def test_no_file_names_a_field_of_a_record_by_what_is_stored(path: Path) -> None:
    short = set(record_fields().values()) - set(record_fields())

    assert {word for word in re.findall(r"\b(?:\w+_)?record\.(\w+)", code_of(path)) if word in short} == set()


def test_comments_stay_out_of_what_redis_is_sent() -> None:
    assert "--" not in library().text


def test_other_code_makes_another_library() -> None:
    assert library().name.startswith(LIBRARY_PREFIX)
    assert Library.of("local a = 1").name != Library.of("local a = 2").name
    assert library().text.startswith(f"#!lua name={library().name}\n")
    assert {load(name).function for name in names()} == set(re.findall(r"function_name = '(\w+)'", library().text))


def test_the_library_stays_far_from_the_limits_of_lua() -> None:
    """Lua allows 200 locals and 60 upvalues per function: a library close to that would soon fail to compile."""
    assert len(PARTS) < 40
    assert max(len(re.findall(r"^\s*local ", path.read_text(), re.MULTILINE)) for path in FILES) < 60

"""The Lua verbs as one library of Redis Functions, named after the hash of its text.

`lua/<verb>.lua` is the body of a function, `lua/lib/<part>.lua` what verbs share. A part is a table of functions named
after its file: `slots.take` is in `lib/slots.lua`. `lib/call.lua` comes first; the order of the others does not matter.

Each file declares the keys that its own code touches, in `--!keys` lines (logical names of `keys.py`; `run:*` is every
key of a run, `every:*` every key of all verbs on runs). The keys of a verb are those of its file and of every part that
it reaches: the loader looks for `slots.` in the text. In Lua code `K.name` is a key, and only the keys of the verb are
in `K`. `--!flags` are flags of the function.

Lua code uses long names for the fields of a work record. The loader replaces them with the short keys under which they
are stored, from the table in `lua/lib/records.lua`: long names cost nothing in a call.

*Promise.* Two versions of the library can be loaded side by side, because their names differ. If a server does not have
it (new, emptied, or promoted from a replica that lagged), the first process that needs it loads it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgpack

from ..connection.keys import RUN_KEYS

#: Prefix of the names of all versions of the library.
LIBRARY_PREFIX = "umbel_"

_DIRECTIVE = re.compile(r"^--!(keys|flags) (.+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--(?!\[\[).*\n|\s+--(?!\[\[).*$", re.MULTILINE)
_FIELD = re.compile(r"^--!field (\w+) (\w+)", re.MULTILINE)
_MEMBER = re.compile(r"(?<![\w.:])([a-z]\w*)\.\w+")
#: `record.word` and `some_record.word`, and the constructor of a record with the words in it.
_WORD = re.compile(r"\b((?:\w+_)?record\.)(\w+)")
_CONSTRUCTOR = re.compile(r"\brecord = \{[^{}]*\}")
_CONSTRUCTOR_WORD = re.compile(r"([{,]\s*)(\w+)(?= = )")
#: Placeholders in `lua/lib/lifetimes.lua` that the loader fills in.
_LISTS = {
    "{--[[retained]]}": tuple(RUN_KEYS),
    "{--[[spent]]}": tuple(name for name, key in RUN_KEYS.items() if key.spent),
}
#: Placeholder for the name of the library in its code.
_NAME = "{--[[library]]}"
_LUA = files(__package__).joinpath("lua")


@dataclass(frozen=True, slots=True)
class Library:
    """All verbs as they are loaded into Redis.

    Attributes:
        name: `LIBRARY_PREFIX` and the hash of its code.
        text: The argument of `FUNCTION LOAD`.
    """

    name: str
    text: str

    @classmethod
    def of(cls, code: str) -> Library:
        """The library with this code, named after it."""
        name = LIBRARY_PREFIX + hashlib.sha256(code.encode()).hexdigest()[:16]
        return cls(name, f"#!lua name={name}\n" + code.replace(_NAME, name))


@dataclass(frozen=True, slots=True)
class Script:
    """One verb.

    Attributes:
        name: The file's stem.
        library: The library that it is in.
        function: The function's name in Redis.
        keys: Logical names of its fixed keys, in KEYS order.
        positions: Position of each key in KEYS, from 0.
    """

    name: str
    library: Library
    function: str
    keys: tuple[str, ...]
    positions: Mapping[str, int]


@cache
def load(name: str) -> Script:
    """The verb in `lua/<name>.lua`."""
    keys, found = keys_of(name), library()
    return Script(name, found, f"{found.name}_{name}", keys, {key: position for position, key in enumerate(keys)})


@cache
def library() -> Library:
    """The library that this version of umbel uses."""
    return Library.of(code())


def code(prepare: Callable[[str], str] | None = None) -> str:
    """The code of the library: the shared parts, then the verbs.

    Args:
        prepare: Transforms the text of each file; by default `prepared`, which makes it fit for Redis.
    """
    prepare = prepare or prepared
    parts = [part for part in _parts() if part != "call"]
    blocks = [f"do\n{prepare(text_of_part(part))}\nend" for part in parts]
    tables = "local " + ", ".join(parts) + " = " + ", ".join("{}" for _ in parts)
    verbs = (_registered(name, prepare) for name in names())
    return "\n".join([prepare(text_of_part("call")), tables, *blocks, *verbs])


def keys_of(name: str) -> tuple[str, ...]:
    """Logical names of the keys of a verb: its own and those of the parts it reaches, each once."""
    body = text_of(name)
    texts = [body, *map(text_of_part, reached(body))]
    return tuple(dict.fromkeys(key for text in texts for key in _expanded(declared(text, "keys"))))


def reached(text: str) -> list[str]:
    """The parts that a text uses, directly or through other parts."""
    found: dict[str, None] = {}
    texts = [text]
    while texts:
        for name in _MEMBER.findall(_COMMENT.sub("", texts.pop())):
            if name in _parts() and name not in found:
                found[name] = None
                texts.append(text_of_part(name))
    return list(found)


def _registered(name: str, prepare: Callable[[str], str]) -> str:
    """A verb's function."""
    body = text_of(name)
    keys = keys_of(name)
    positions = ", ".join(f"['{key}'] = {position}" for position, key in enumerate(keys, 1))
    flags = ", ".join(f"'{flag}'" for flag in declared(body, "flags"))
    return "\n".join(
        [
            "do",
            f"local KEYS_OF_IT = {{ {positions} }}",
            f"local function verb()\n{prepare(body)}\nend",
            f"VERBS['{name}'] = verb",
            f"redis.register_function{{ function_name = '{_NAME}_{name}', flags = {{ {flags} }},",
            f"  callback = function(keys, args) begin(KEYS_OF_IT, {len(keys)}, keys, args) return verb() end }}",
            "end",
        ]
    )


def prepared(text: str) -> str:
    """The text of a file as it is sent to Redis."""
    made = stored_fields(_COMMENT.sub("", text))
    for placeholder, listed in _LISTS.items():
        made = made.replace(placeholder, "{ " + ", ".join(f"K['{key}']" for key in listed) + " }")
    return made


def text_of(name: str) -> str:
    """The text of a verb's file."""
    return _LUA.joinpath(f"{name}.lua").read_text(encoding="utf-8")


@cache
def text_of_part(name: str) -> str:
    """The text of a part's file."""
    return _LUA.joinpath("lib", f"{name}.lua").read_text(encoding="utf-8")


@cache
def _parts() -> tuple[str, ...]:
    return tuple(sorted(_lua_files(_LUA.joinpath("lib"))))


def names() -> list[str]:
    """All verbs."""
    return sorted(_lua_files(_LUA))


def _lua_files(folder: Any) -> Iterator[str]:
    return (path.name.removesuffix(".lua") for path in folder.iterdir() if path.name.endswith(".lua"))


def declared(text: str, directive: str) -> list[str]:
    """The words of a Lua file's `--!keys` or `--!flags` lines, in order."""
    return [word for found, words in _DIRECTIVE.findall(text) if found == directive for word in words.split()]


def _expanded(keys: Iterable[str]) -> Iterable[str]:
    for key in keys:
        if key == "run:*":
            yield from RUN_KEYS
        elif key == "every:*":
            yield from _keys_of_runs()
        else:
            yield key


@cache
def _keys_of_runs() -> tuple[str, ...]:
    """The keys of all verbs on runs, each once."""
    all_of_them = (keys_of(name) for name in names() if "every:*" not in declared(text_of(name), "keys"))
    return tuple(dict.fromkeys(key for keys in all_of_them if "run" in keys for key in keys))


@cache
def record_fields() -> dict[str, str]:
    """The fields of a work record: long name -> short key under which it is stored."""
    return {word: key for key, word in _FIELD.findall(text_of_part("records"))}


def stored_fields(text: str) -> str:
    """Lua code with the names of work record fields replaced by the keys under which they are stored.

    Raises:
        LookupError: A work record has no such field.
    """
    fields = record_fields()

    def stored(match: re.Match[str]) -> str:
        if match[2] not in fields:
            raise LookupError(f"A work record has no field {match[2]!r}: {match[0]}. They are in lua/lib/records.lua.")
        return match[1] + fields[match[2]]

    text = _WORD.sub(stored, text)
    return _CONSTRUCTOR.sub(lambda found: _CONSTRUCTOR_WORD.sub(stored, found[0]), text)


def pack(value: Any) -> bytes:
    """Encode msgpack for Lua's cmsgpack, where text and bytes are the same kind of string."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def unpack(data: bytes) -> Any:
    """Decode msgpack from Lua whose keys and short values are text. Not for payloads; see `unpack_raw`."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False, unicode_errors="surrogateescape")

"""Lua files as callables: one verb per file, shared parts in `lua/lib`, every key declared.

Each file, verb or part, declares what it touches and uses itself: keys in `--!keys` lines (logical names of `keys.py`;
`run:*` is every key of a run) and parts in one `--!include` line. The loader unites them: a part comes after the parts
it includes and only once, in the order in which the files name them; keys are passed in the order in which the composed
text declares them. The table `K` in front of the text holds these keys only, so a script cannot touch another one.

Lua code names the fields of a work record by words. The loader replaces them by the short keys under which they are
stored, after the table in `lua/lib/record.lua`: words cost a script nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgpack

from .keys import RUN_KEYS

_DIRECTIVE = re.compile(r"^--!(keys|include) (.+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--(?!\[\[).*\n|\s+--(?!\[\[).*$", re.MULTILINE)
_FIELD = re.compile(r"^--!field (\w+) (\w+)", re.MULTILINE)
#: `record.word` and `some_record.word`, and the constructor of a record with the words in it.
_WORD = re.compile(r"\b((?:\w+_)?record\.)(\w+)")
_CONSTRUCTOR = re.compile(r"\brecord = \{[^{}]*\}")
_CONSTRUCTOR_WORD = re.compile(r"([{,]\s*)(\w+)(?= = )")
#: What `lua/lib/lifetimes.lua` leaves to the loader.
_LISTS = {
    "{--[[retained]]}": tuple(RUN_KEYS),
    "{--[[spent]]}": tuple(name for name, key in RUN_KEYS.items() if key.spent),
}
_LUA = files(__package__).joinpath("lua")


@dataclass(frozen=True, slots=True)
class Script:
    """One composed script.

    Attributes:
        name: The file's stem; the verb.
        keys: Logical names of its fixed keys, in KEYS order.
        text: What Redis runs.
        sha: Its SHA-1, by which Redis knows it.
        positions: Position of each key in KEYS, from 0.
    """

    name: str
    keys: tuple[str, ...]
    text: str
    sha: str
    positions: Mapping[str, int]


@cache
def load(name: str) -> Script:
    """Compose `lua/<name>.lua`."""
    body = _LUA.joinpath(f"{name}.lua").read_text()
    parts: dict[str, str] = {}
    _include(declared(body, "include"), parts)
    texts = [*parts.values(), body]
    keys = tuple(dict.fromkeys(key for text in texts for key in _expanded(declared(text, "keys"))))
    table = ", ".join(f"['{key}'] = KEYS[{position}]" for position, key in enumerate(keys, 1))
    code = stored_fields(_COMMENT.sub("", "\n".join(texts)))
    text = "\n".join([f"local FIXED_KEYS = {len(keys)}", f"local K = {{ {table} }}", code])
    for placeholder, listed in _LISTS.items():
        text = text.replace(placeholder, "{ " + ", ".join(f"K['{key}']" for key in listed) + " }")
    positions = {key: position for position, key in enumerate(keys)}
    return Script(name, keys, text, hashlib.sha1(text.encode()).hexdigest(), positions)


def declared(text: str, directive: str) -> list[str]:
    """The words of a Lua file's `--!keys` or `--!include` lines, in order."""
    return [word for found, words in _DIRECTIVE.findall(text) if found == directive for word in words.split()]


def _include(names: Iterable[str], parts: dict[str, str]) -> None:
    """Add parts that are not in `parts` yet, each after the parts that it includes itself."""
    for name in names:
        if name not in parts:
            text = _LUA.joinpath("lib", f"{name}.lua").read_text()
            _include(declared(text, "include"), parts)
            parts[name] = text


def _expanded(keys: Iterable[str]) -> Iterable[str]:
    for key in keys:
        if key == "run:*":
            yield from RUN_KEYS
        else:
            yield key


@cache
def record_fields() -> dict[str, str]:
    """The fields of a work record: word -> short key under which it is stored."""
    return {word: key for key, word in _FIELD.findall(_LUA.joinpath("lib", "record.lua").read_text())}


def stored_fields(code: str) -> str:
    """Lua code with the words for fields of work records replaced by what they are stored as.

    Raises:
        LookupError: A work record has no such field.
    """
    fields = record_fields()

    def stored(match: re.Match[str]) -> str:
        if match[2] not in fields:
            raise LookupError(f"A work record has no field {match[2]!r}: {match[0]}. They are in lua/lib/record.lua.")
        return match[1] + fields[match[2]]

    code = _WORD.sub(stored, code)
    return _CONSTRUCTOR.sub(lambda found: _CONSTRUCTOR_WORD.sub(stored, found[0]), code)


def names() -> list[str]:
    """All verbs."""
    return sorted(path.name.removesuffix(".lua") for path in _LUA.iterdir() if path.name.endswith(".lua"))


def pack(value: Any) -> bytes:
    """msgpack as Lua's cmsgpack reads it, where text and bytes are the same kind of string."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def unpack(data: bytes) -> Any:
    """msgpack from Lua: keys and short values are text; payloads never travel this way."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False, unicode_errors="surrogateescape")

"""Lua files as callables: one verb a file, shared parts from `lua/lib`, every key declared.

A file names the keys it touches in one `--!keys` line (logical names of `keys.py`) and the shared parts it needs in one
`--!include` line. The loader puts `K.<name>` in front, so a key that is not declared cannot be touched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgpack
from redis.exceptions import NoScriptError

from .connection import Client
from .failpoints import failpoint

_DIRECTIVE = re.compile(r"^--!(keys|include) (.+)$", re.MULTILINE)
_LUA = files(__package__).joinpath("lua")


@dataclass(frozen=True, slots=True)
class Script:
    """One composed script.

    Attributes:
        name: The file's stem; the verb.
        keys: Logical names of its fixed keys, in KEYS order.
        text: What Redis runs.
        sha: Its SHA-1, by which Redis knows it.
        positions: Where each of the keys stands.
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
    directives = dict(_DIRECTIVE.findall(body))
    keys = tuple(directives["keys"].split())
    parts = [_LUA.joinpath("lib", f"{part}.lua").read_text() for part in directives.get("include", "").split()]
    table = ", ".join(f"['{key}'] = KEYS[{position}]" for position, key in enumerate(keys, 1))
    text = "\n".join([f"local FIXED_KEYS = {len(keys)}", f"local K = {{ {table} }}", *parts, body])
    positions = {key: position for position, key in enumerate(keys)}
    return Script(name, keys, text, hashlib.sha1(text.encode()).hexdigest(), positions)


def names() -> list[str]:
    """All verbs."""
    return sorted(path.name.removesuffix(".lua") for path in _LUA.iterdir() if path.name.endswith(".lua"))


def pack(value: Any) -> bytes:
    """msgpack as Lua's cmsgpack reads it: text and bytes are the same kind of string there."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def unpack(data: bytes) -> Any:
    """msgpack from Lua: keys and short values are text; payloads never travel this way."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False, unicode_errors="surrogateescape")


def enqueue(pipe: Client, script: Script, keys: Sequence[str], args: Sequence[bytes]) -> None:
    """Put a script into a pipeline, with its text: there, one that Redis has forgotten is found out too late."""
    pipe.eval(script.text, len(keys), *keys, *args)


def evaluate(client: Client, script: Script, keys: Sequence[str], args: Sequence[bytes]) -> Any:
    """Run a script by its SHA; a Redis that has forgotten it (restart, SCRIPT FLUSH) is given the text."""
    failpoint(script.name, "before")
    try:
        reply = client.evalsha(script.sha, len(keys), *keys, *args)
    except NoScriptError:
        reply = client.eval(script.text, len(keys), *keys, *args)
    failpoint(script.name, "after")
    return reply

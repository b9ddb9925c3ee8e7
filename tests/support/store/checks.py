"""Stores whose scripts are altered on purpose: watched for undeclared keys, or with a guard taken out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

from support.store.blocking import BlockingStore, blocking_store
from umbel.orchestration.store.asks import ScriptCall
from umbel.orchestration.store.connection import Client
from umbel.orchestration.store.pipeline import Connection
from umbel.orchestration.store.scripts import Script, load, stored_fields
from umbel.orchestration.store.settings import Settings
from umbel.orchestration.store.verbs import Store

T = TypeVar("T")

#: Put before a script: from here on `redis.call` refuses a key that was not passed in KEYS.
WATCH = """
local passed = {}
for _, key in ipairs(KEYS) do passed[key] = true end
local redis = setmetatable({ call = function(command, key, ...)
  if command == 'TIME' then return redis.call(command) end
  if command == 'MEMORY' then return redis.call(command, key, ...) end  -- of the journal or the inbox
  if not passed[key] then error('touches undeclared key ' .. tostring(key)) end
  return redis.call(command, key, ...)
end }, { __index = redis })
"""


def with_text(script: Script, text: str) -> Script:
    """The script with another text."""
    return replace(script, text=text, sha=hashlib.sha1(text.encode()).hexdigest())


@cache
def watched(name: str) -> Script:
    """The verb, watched for undeclared keys."""
    script = load(name)
    return with_text(script, WATCH + script.text)


class CheckedStore(Store):
    """A store that fails as soon as a script touches a key beyond KEYS."""

    async def send_script(self, call: ScriptCall[T]) -> T:
        return await super().send_script(replace(call, script=watched(call.script.name)))


def checked_store(client: Client, settings: Settings) -> BlockingStore:
    """A `CheckedStore` for plain tests."""
    return blocking_store(settings, client, CheckedStore)


def mutant_store(client: Client, settings: Settings, mutations: dict[str, tuple[str, str]]) -> BlockingStore:
    """A `MutantStore` for plain tests."""
    return blocking_store(settings, client, partial(MutantStore, mutations=mutations))


class MutantStore(Store):
    """A store in whose scripts some text is replaced, to see whether a test notices.

    Raises:
        LookupError: The text to replace is not in the script, so the mutation would show nothing.
    """

    def __init__(self, connection: Connection, settings: Settings, mutations: dict[str, tuple[str, str]]) -> None:
        super().__init__(connection, settings)
        self.mutants: dict[str, Script] = {}
        for verb, (guard, instead) in mutations.items():
            script = load(verb)
            guard, instead = stored_fields(guard), stored_fields(instead)
            if script.text.count(guard) != 1:
                raise LookupError(f"{verb}.lua has {script.text.count(guard)} times, not once: {guard!r}")
            self.mutants[verb] = with_text(script, script.text.replace(guard, instead))

    async def send_script(self, call: ScriptCall[T]) -> T:
        return await super().send_script(replace(call, script=self.mutants.get(call.script.name, call.script)))

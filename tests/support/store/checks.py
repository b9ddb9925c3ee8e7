"""Stores whose scripts are altered on purpose: checked for undeclared keys, or with a guard removed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

from redis.exceptions import ResponseError

from support.store.blocking import BlockingStore, blocking_store
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.store.asks import ScriptCall
from umbel.orchestration.store.pipeline import Connection
from umbel.orchestration.store.scripts import (
    Library,
    Script,
    code,
    load,
    prepared,
    reached,
    stored_fields,
    text_of,
    text_of_part,
)
from umbel.orchestration.store.verbs import Store

T = TypeVar("T")

_STATE = "local call, A\n"
#: Replaces `redis.call` in scripts: refuses a key that was not passed in KEYS.
WATCH = """
local function watched_call(command, key, ...)
  if command == 'TIME' then return redis.call(command) end
  if command == 'MEMORY' or command == 'XINFO' then return redis.call(command, key, ...) end  -- of journal or inbox
  for _, passed in ipairs(call.keys) do
    if passed == key then return redis.call(command, key, ...) end
  end
  error('touches undeclared key ' .. tostring(key))
end
"""


def in_library_of(code: str, script: Script) -> Script:
    """Return the verb in a library with this code instead."""
    library = Library.of(code)
    return replace(script, library=library, function=f"{library.name}_{script.name}")


@cache
def watched(name: str) -> Script:
    """Return the verb, checked for undeclared keys."""
    watching = code().replace("redis.call(", "watched_call(")
    assert watching.count(_STATE) == 1
    return in_library_of(watching.replace(_STATE, _STATE + WATCH), load(name))


class CheckedStore(Store):
    """A store that fails when a script touches a key outside KEYS."""

    async def send_script(self, call: ScriptCall[T]) -> T:
        return await super().send_script(replace(call, script=watched(call.script.name)))


def checked_store(client: Client, settings: Settings) -> BlockingStore:
    """Return a `CheckedStore` for synchronous tests."""
    return blocking_store(settings, client, CheckedStore)


def mutant_store(client: Client, settings: Settings, mutations: dict[str, tuple[str, str]]) -> BlockingStore:
    """Return a `MutantStore` for synchronous tests.

    Raises:
        LookupError: As `MutantStore`; or Redis cannot load the altered script, so a failure would prove nothing.
    """
    made = blocking_store(settings, client, partial(MutantStore, mutations=mutations))
    for mutant in made.wrapped.mutants.values():
        try:
            client.function_load(mutant.library.text, replace=True)
        except ResponseError as error:
            raise LookupError(f"{mutant.name}.lua without its guard cannot be loaded: {error}") from error
    return made


class MutantStore(Store):
    """A store whose scripts have some text replaced, to see whether a test notices.

    Raises:
        LookupError: The text to replace is not in the script, so the mutation would prove nothing.
    """

    def __init__(self, connection: Connection, settings: Settings, mutations: dict[str, tuple[str, str]]) -> None:
        super().__init__(connection, settings)
        self.mutants: dict[str, Script] = {}
        for verb, (guard, instead) in mutations.items():
            guard, instead = stored_fields(guard), stored_fields(instead)
            body = text_of(verb)
            texts = [prepared(text) for text in (body, *map(text_of_part, reached(body)))]
            found = sum(text.count(guard) for text in texts)
            if found != 1:
                raise LookupError(f"{verb}.lua and its parts have {found} times, not once: {guard!r}")
            whole = next(text for text in texts if guard in text)
            mutated = code().replace(whole, whole.replace(guard, instead))
            self.mutants[verb] = in_library_of(mutated, load(verb))

    async def send_script(self, call: ScriptCall[T]) -> T:
        return await super().send_script(replace(call, script=self.mutants.get(call.script.name, call.script)))

"""States in Redis for tests: the asynchronous store next to a blocking one, and a writer whose methods block."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from support.store.blocking import BlockingStore, shared_portal
from support.store.checks import watched
from umbel.orchestration.model.work_item import Work
from umbel.orchestration.state.redis_hash import Change, Occupied, StateHash, Written
from umbel.orchestration.store.asks import ScriptCall
from umbel.orchestration.store.nodes import connection_to
from umbel.orchestration.store.pipeline import Connection
from umbel.orchestration.store.verbs import Store

T = TypeVar("T")


@cache
def connection(url: str) -> Connection:
    """Return the connection to a Redis that all tests share, on its own loop."""
    return connection_to(url, shared_portal())


def beside(store: BlockingStore) -> Store:
    """Return an asynchronous store with the same settings."""
    url = store.settings.redis_url
    assert url is not None
    return Store(connection(url), store.settings, patience_seconds=store.patience_seconds)


class WatchedStore(Store):
    """A store that fails when a script touches a key outside KEYS."""

    async def send_script(self, call: ScriptCall[T]) -> T:
        return await super().send_script(replace(call, script=watched(call.script.name)))


class DeafStore(WatchedStore):
    """A store that loses the reply to its next script, although Redis has executed it, and repeats the call."""

    deaf = False

    async def send_script(self, call: ScriptCall[T]) -> T:
        if self.deaf:
            self.deaf = False
            await super().send_script(call)
        return await super().send_script(call)


class BlockingHash:
    """A `StateHash` whose methods block."""

    def __init__(self, store: Store, run_id: str, state_id: str, work: Work | None = None, **options: Any) -> None:
        self.hash = StateHash(store, run_id, state_id, work, **options)

    @staticmethod
    def of(store: BlockingStore, run_id: str, state_id: str, work: Work | None = None, **options: Any) -> BlockingHash:
        """Return a writer whose scripts are checked for undeclared keys."""
        near = beside(store)
        watching = WatchedStore(near.connection, near.settings, patience_seconds=near.patience_seconds)
        return BlockingHash(watching, run_id, state_id, work, **options)

    @property
    def writes(self) -> int:
        return self.hash.writes

    @property
    def key(self) -> str:
        return self.hash.key

    def read(self, name: str) -> bytes | None:
        return self._do(self.hash.read(name))

    def read_all(self) -> dict[str, bytes]:
        return self._do(self.hash.read_all())

    def lock(self, token: str, **options: Any) -> dict[str, bytes] | Occupied:
        return self._do(self.hash.lock(token, **options))

    def renew(self, token: str) -> bool:
        return self._do(self.hash.renew(token))

    def unlock(self, token: str) -> None:
        return self._do(self.hash.unlock(token))

    def write(
        self,
        change: Change,
        *,
        lock: str | None = None,
        expect: Mapping[str, bytes | None] | None = None,
        reserve: bool = False,
    ) -> Written | Occupied:
        return self._do(self.hash.write(change, lock=lock, expect=expect, reserve=reserve))

    def read_version(self, version: int) -> dict[str, bytes] | None:
        return self._do(self.hash.read_version(version))

    def put_back(self, version: int) -> int | Occupied | None:
        return self._do(self.hash.put_back(version))

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.hash.store.connection.portal.call(coroutine)

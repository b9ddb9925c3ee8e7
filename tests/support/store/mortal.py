"""A process that dies at a chosen exchange with Redis."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from support.store.blocking import BlockingStore as Store
from support.store.checks import checked_store
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.store.pipeline import Connection


class Died(BaseException):
    """The process has died: no code handles this exception."""


class MortalConnection(Connection):
    """Kills the process once, at its n-th exchange with Redis: before it is sent, or before the reply is seen."""

    exchanges = dies_at = 0
    is_applied = False

    async def run(self, call: Any, **options: Any) -> Any:
        return await self._mortal(super().run(call, **options))

    async def _reply(self, request: Any) -> Any:
        return await self._mortal(super()._reply(request))

    async def _replies(self, requests: Any) -> Any:
        return await self._mortal(super()._replies(requests))

    async def _mortal(self, exchange: Coroutine[Any, Any, Any]) -> Any:
        self.exchanges += 1
        if self.exchanges != self.dies_at:
            return await exchange
        if self.is_applied:
            await exchange
        else:
            exchange.close()
        raise Died


def mortal_store(client: Client, settings: Settings, dies_at: int, *, applied: bool) -> Store:
    store = checked_store(client, settings)
    assert settings.redis_url is not None
    connection = MortalConnection(settings.redis_url, store.portal)
    connection.dies_at, connection.is_applied = dies_at, applied
    store.wrapped.connection = connection
    return store

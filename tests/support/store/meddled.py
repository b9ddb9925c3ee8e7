"""A process with a concurrent change after a chosen exchange with Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from support.store.blocking import BlockingStore as Store
from support.store.checks import checked_store
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.store.pipeline import Connection


class MeddledConnection(Connection):
    """Calls `meanwhile` after the n-th reply from Redis, before the process continues."""

    replies = at = 0
    meanwhile: Callable[[], object]

    async def run(self, call: Any, **options: Any) -> Any:
        return await self._counted(super().run(call, **options))

    async def _reply(self, request: Any) -> Any:
        return await self._counted(super()._reply(request))

    async def _replies(self, requests: Any) -> Any:
        return await self._counted(super()._replies(requests))

    async def _counted(self, exchange: Coroutine[Any, Any, Any]) -> Any:
        reply = await exchange
        self.replies += 1
        if self.replies == self.at:
            await asyncio.to_thread(self.meanwhile)
        return reply


def meddled_store(client: Client, settings: Settings, at: int, meanwhile: Callable[[], object]) -> Store:
    store = checked_store(client, settings)
    assert settings.redis_url is not None
    connection = MeddledConnection(settings.redis_url, store.portal)
    connection.at, connection.meanwhile = at, meanwhile
    store.wrapped.connection = connection
    return store

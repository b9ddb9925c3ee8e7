"""A process with a concurrent change after chosen exchanges with Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from support.store.blocking import BlockingStore as Store
from support.store.checks import checked_store
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.store.pipeline import Connection


class MeddledConnection(Connection):
    """Calls a function after the n-th reply from Redis, before the process continues; several in the order of n."""

    replies = 0
    meanwhile: Mapping[int, Callable[[], object]]
    one_at_a_time: asyncio.Lock

    async def run(self, call: Any, **options: Any) -> Any:
        return await self._counted(super().run(call, **options))

    async def _reply(self, request: Any) -> Any:
        return await self._counted(super()._reply(request))

    async def _replies(self, requests: Any) -> Any:
        return await self._counted(super()._replies(requests))

    async def _counted(self, exchange: Coroutine[Any, Any, Any]) -> Any:
        reply = await exchange
        self.replies += 1
        if (change := self.meanwhile.get(self.replies)) is not None:
            async with self.one_at_a_time:
                await asyncio.to_thread(change)
        return reply


def meddled_store(client: Client, settings: Settings, meanwhile: Mapping[int, Callable[[], object]]) -> Store:
    """Return a store that calls these functions after its replies with these numbers."""
    store = checked_store(client, settings)
    assert settings.redis_url is not None
    connection = MeddledConnection(settings.redis_url, store.portal)
    connection.meanwhile, connection.one_at_a_time = meanwhile, asyncio.Lock()
    store.wrapped.connection = connection
    return store

"""A process whose Redis is set back while it works, as after a power cut: it keeps what it had received."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from support.store.checks import checked_store
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.store.pipeline import Connection

# Scripts, because the process has other exchanges under way.
_COPY = """
local copy = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  for _, part in ipairs({ key, math.max(0, redis.call('PTTL', key)), redis.call('DUMP', key) }) do
    copy[#copy + 1] = part
  end
end
return copy
"""
_PUT_BACK = """
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end
for i = 2, #ARGV, 3 do redis.call('RESTORE', ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
"""


class SetBack:
    """Makes a copy of a deployment's keys after one reply from Redis, and puts it back after a later one.

    Attributes:
        store: The store of the process whose replies are counted.
        is_done: Whether the copy was put back.
    """

    def __init__(self, client: Client, settings: Settings, *, kept: int, at: int) -> None:
        """Args:
        client: For the copy.
        settings: The deployment.
        kept: The number of the reply after which the copy is made.
        at: The number of the reply after which it is put back.
        """
        self._client, self._prefix, self._kept, self._at = client, settings.key_prefix, kept, at
        self._replies, self._copy = 0, list[bytes | int]()
        self._one_at_a_time = threading.Lock()
        self.is_done = False
        self.store = checked_store(client, settings)
        assert settings.redis_url is not None
        connection = _Counted(settings.redis_url, self.store.portal)
        connection.set_back = self
        self.store.wrapped.connection = connection

    def count(self) -> None:
        """Count one reply."""
        with self._one_at_a_time:
            self._replies += 1
            if self._replies == self._kept:
                self._copy = self._client.eval(_COPY, 0, f"{self._prefix}:*")
            if self._replies == self._at:
                self._client.eval(_PUT_BACK, 0, f"{self._prefix}:*", *self._copy)
                self.is_done = True


class _Counted(Connection):
    set_back: SetBack

    async def run(self, call: Any, **options: Any) -> Any:
        return await self._counted(super().run(call, **options))

    async def _reply(self, request: Any) -> Any:
        return await self._counted(super()._reply(request))

    async def _replies(self, requests: Any) -> Any:
        return await self._counted(super()._replies(requests))

    async def _counted(self, exchange: Coroutine[Any, Any, Any]) -> Any:
        reply = await exchange
        await asyncio.to_thread(self.set_back.count)
        return reply

"""A process whose Redis is set back while it works, as after a power cut: it keeps what it had received."""

from __future__ import annotations

from support.store.meddled import meddled_store
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings

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
        self._client, self._keys = client, f"{settings.key_prefix}:*"
        self._copy: list[bytes | int] = []
        self.is_done = False
        self.store = meddled_store(client, settings, {kept: self._keep, at: self._put_back})

    def _keep(self) -> None:
        self._copy = self._client.eval(_COPY, 0, self._keys)

    def _put_back(self) -> None:
        self._client.eval(_PUT_BACK, 0, self._keys, *self._copy)
        self.is_done = True

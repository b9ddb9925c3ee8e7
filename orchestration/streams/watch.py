"""Watching for runs that end and running steps that are cancelled, in any process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Literal

from ..model.errors import WorkflowRuntimeError
from .reader import StreamHub
from .relay import Listener

#: A rewind is announced on the channel of ends, with this behind the run's id: [status, event] as MessagePack.
_REWOUND = b"\x92\xa7running"


class EndedWatch(Listener):
    """Calls back for every run of the deployment that ends, or for every running step that is cancelled.

    *Promise:* prompt calls, but not complete ones. Nothing is reported while the connection is interrupted, so use this
    only to speed up what is noticed anyway.
    """

    def __init__(
        self, hub: StreamHub, callback: Callable[[str], None], channel: Literal["ended", "stopped"] = "ended"
    ) -> None:
        """Begin to watch, on the hub's connection.

        Args:
            hub: The process's hub.
            callback: Gets the run id, or the cancelled claim, on the portal's loop; it must be quick and must not
                block.
            channel: What to watch for.
        """
        self._callback = callback
        self._live = hub.live()
        keys = hub.store.keys
        self._channels = [keys.channel(keys.in_shard(shard, channel)).encode() for shard in range(keys.shards)]
        self._live.soon(self._begin)

    def _begin(self) -> None:
        for channel in self._channels:
            self._live.join(self._live.here(), channel, self)

    def heard(self, message: bytes) -> None:
        about, _, what = message.partition(b"\0")
        if not what.startswith(_REWOUND):  # its steps may be executing already
            self._callback(about.decode())

    def close(self) -> None:
        """Stop watching. A callback that has begun may still be running."""
        with contextlib.suppress(WorkflowRuntimeError):
            self._live.soon(self._end)

    def _end(self) -> None:
        for channel in self._channels:
            self._live.leave(self._live.here(), channel, self)

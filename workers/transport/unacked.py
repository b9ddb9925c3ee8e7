"""The unacknowledged messages of a Redis broker, kept correct across lost connections and error replies.

kombu ties them to a channel: when it closes, the knowledge of what is running is lost. Here a channel's QoS stays
alive until Redis has everything. The docstring of `channel` says what each override fixes, and where kombu does it.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu is a typed package whose transports carry no annotations.

from __future__ import annotations

import atexit
import logging
import os
import time
from dataclasses import dataclass
from typing import Any

import redis
from celery import signals
from celery.worker import state as worker_state
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import dumps

from ...orchestration.connection.failpoints import failpoint
from ...tasks.messages.template import HEADER

logger = logging.getLogger(__name__)

#: Redis cannot be reached or answers with an error. Whether it has written is unknown; whatever is retried here may
#: safely be repeated.
REFUSED = (redis.RedisError, OSError)

#: Objects with something that Redis does not have yet. Kept per process, because connections share nothing else.
_unsettled: set[QoS] = set()


@dataclass(slots=True)
class _Orphan:
    """An unacked message whose channel is closed, or that was rejected.

    Attributes:
        request: Celery's request for it if this process executes it; None if it goes back to its queue.
        is_last_in_line: Whether it goes back to the end of the queue that is served last.
        idle_checks: How often in a row the request was found to have ended.
    """

    request: Any = None
    is_last_in_line: bool = False
    idle_checks: int = 0


class QoS(stock.QoS):
    """What one channel has fetched and not acknowledged, and what it still has to write, even after it is closed.

    Invariants:
        1. This process never puts back an acknowledged message: the ack stays pending until Redis has it.
        2. A message that this process executes is put back only when the worker shuts down or the process ends.
        3. Every other message that a closed channel held is put back, after the next connect at the latest.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending_acks: dict[str, None] = {}
        self._unfiled: dict[str, Any] = {}
        #: umbel's own messages. Losing them is harmless, so they are filed only when they have to go back.
        self._dispatches: dict[str, Any] = {}
        self._orphans: dict[str, _Orphan] = {}
        #: Celery's requests for the unacked messages; those of other consumers have none.
        self.requests: dict[str, Any] = {}

    def append(self, message: Any, delivery_tag: str) -> None:
        """File a fetched message as unacked.

        Never fails: the message is in no queue any more, so one that Redis does not file is still delivered, and
        `settle` files it. If the process dies before that, the message is lost. A dispatch of umbel's is not filed,
        which saves two round trips: if it is lost, the unclaimed index has the work.
        """
        virtual.QoS.append(self, message, delivery_tag)
        if HEADER in (message.headers or ()):
            self._dispatches[delivery_tag] = message
            return
        self._unfiled[delivery_tag] = message
        try:
            self._file()
        except REFUSED as error:
            _unsettled.add(self)
            logger.warning(
                "Redis did not record message %s as unacked; it is lost if this process dies: %r",
                delivery_tag,
                error,
                extra={"action": "unacked_not_filed"},
            )

    def append_direct(self, request: Any, delivery_tag: str) -> None:
        """The same for a dispatch that is delivered directly: its request takes the place of the message."""
        virtual.QoS.append(self, request, delivery_tag)
        self._dispatches[delivery_tag] = self.requests[delivery_tag] = request

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message, over a new connection when the channel is closed.

        Never fails: an ack that Redis does not take stays pending, and `settle` repeats it, which is harmless. If the
        process dies before that, the message is delivered again.
        """
        failpoint("ack", "before")
        if self._dispatches.pop(delivery_tag, None) is not None:
            self.requests.pop(delivery_tag, None)
            virtual.QoS.ack(self, delivery_tag)
            return
        self._pending_acks[delivery_tag] = None
        self._unfiled.pop(delivery_tag, None)
        self._orphans.pop(delivery_tag, None)
        self.requests.pop(delivery_tag, None)
        virtual.QoS.ack(self, delivery_tag)
        try:
            self._send_acks()
        except REFUSED as error:
            _unsettled.add(self)
            logger.warning(
                "Redis did not accept the ack of message %s; it will be sent again: %r",
                delivery_tag,
                error,
                extra={"action": "ack_owed"},
            )
        else:
            self._release_if_settled()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message, or put it back to the end of its queue that is served last; never fails."""
        if not requeue:
            self.ack(delivery_tag)
            return
        self._file_dispatches()
        virtual.QoS.ack(self, delivery_tag)
        self.requests.pop(delivery_tag, None)
        self._orphans[delivery_tag] = _Orphan(is_last_in_line=True)
        self.settle()

    def restore_unacked(self, client: Any = None) -> None:
        """Put everything this channel holds back into its queues; what Redis does not accept goes back later."""
        self._file_dispatches()
        self._orphans.update({tag: _Orphan() for tag in self._delivered})
        self._delivered.clear()
        self.settle()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """On closing, put back what this process does not execute; if the worker shuts down, put back everything."""
        self._file_dispatches()
        self._flush()
        if not is_shutting_down():
            for tag, request in tuple(self.requests.items()):
                if tag in self._delivered and _is_begun(request):
                    del self._delivered[tag]
                    self._orphans[tag] = _Orphan(request)
                    _unsettled.add(self)
        self.requests.clear()
        if self._orphans:
            logger.info(
                "A broker connection is closed while %d of its tasks run; they continue.",
                len(self._orphans),
                extra={"action": "tasks_disconnected"},
            )
        super().restore_unacked_once(stderr)

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 10) -> None:
        """Write what is pending in this process, then do kombu's periodic restore of messages whose worker died.

        Raises:
            redis.RedisError: kombu's part failed.
        """
        _settle_all()
        super().restore_visible(start, num, interval)

    def settle(self, *, is_last: bool = False) -> None:
        """Write what Redis does not have yet, and put back what is not executed any more.

        Never fails; what Redis does not accept stays pending. Each part may be repeated.

        Args:
            is_last: Whether the process ends, and with it everything that it executes.
        """
        _unsettled.add(self)
        try:
            self._file()
            self._send_acks()
            for tag, entry in tuple(self._orphans.items()):
                if is_last or _is_over(entry):
                    # If the request is marked as acknowledged, its ack is on the way to this object.
                    if is_last or entry.request is None or not entry.request.acknowledged:
                        self.restore_by_tag(tag, leftmost=entry.is_last_in_line)
                    self._orphans.pop(tag, None)
        except REFUSED as error:
            acks, orphans = len(self._pending_acks), len(self._orphans)
            logger.warning(
                "%d acks and %d messages to requeue wait for Redis: %r",
                acks,
                orphans,
                error,
                extra={"action": "ack_owed"},
            )
        else:
            self._release_if_settled()

    def _file_dispatches(self) -> None:
        self._unfiled.update(self._dispatches)
        self._dispatches.clear()

    def _file(self) -> None:
        if not self._unfiled:
            return
        filed = dict(self._unfiled)
        # No MULTI here either. If only the first half is written, a restore removes the index entry without a message.
        with self.channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipeline:
            for tag, message in filed.items():
                pipeline.zadd(self.unacked_index_key, {tag: time.time()})
                pipeline.hset(self.unacked_key, tag, dumps([message._raw, *_source_of(message)]))
            failpoint("file", "before")
            pipeline.execute()
            failpoint("file", "after")
        for tag in filed:
            self._unfiled.pop(tag, None)

    def _send_acks(self) -> None:
        tags = tuple(self._pending_acks)
        if not tags:
            return
        # No MULTI: a Redis that is out of memory refuses it, but not these two commands. The hash goes first, because
        # a restore removes an index entry without a message, but not the reverse.
        with self.channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipeline:
            pipeline.hdel(self.unacked_key, *tags)
            pipeline.zrem(self.unacked_index_key, *tags)
            failpoint("acks", "before")
            pipeline.execute()
            failpoint("acks", "after")
        for tag in tags:
            self._pending_acks.pop(tag, None)

    def _release_if_settled(self) -> None:
        if not (self._pending_acks or self._unfiled or self._orphans):
            _unsettled.discard(self)
            if self.channel.closed:
                self.channel._disconnect_pools()


def _source_of(message: Any) -> tuple[str | None, str | None]:
    """Exchange and routing key under which a message goes back to where it came from.

    The default exchange leads to exactly the queue; the message's own may lead to several, or, before this process
    has declared it, to none, and kombu drops a message without a destination.
    """
    queue = getattr(message._raw, "queue", None)
    return ("", queue) if queue else (message.delivery_info.get("exchange"), message.delivery_info.get("routing_key"))


def _remember_request(request: Any, **_: Any) -> None:
    qos = getattr(request.message.channel, "_qos", None)
    if isinstance(qos, QoS):
        qos.requests[request.message.delivery_tag] = request


def _is_begun(request: Any) -> bool:
    """Whether a request runs, has run, or will run because its pool cannot take it back."""
    if request.time_start is not None or request.acknowledged:
        return True
    # Pools that can take a job back keep a handle of it (prefork); a thread pool has none.
    return request._apply_result is not None and request._apply_result() is None


def _is_over(entry: _Orphan) -> bool:
    request = entry.request
    if request is None:
        return True
    is_waiting = request.time_start is None and not request.acknowledged
    # Two checks, because a pool thread removes a request from the active ones just before it acknowledges it.
    entry.idle_checks = 0 if is_waiting or request in worker_state.active_requests else entry.idle_checks + 1
    return entry.idle_checks > 1


def says_nothing_about(error: Exception, connection_errors: tuple[type[Exception], ...]) -> bool:
    """Whether what a delivery raised has other reasons than its message: connection, memory, the end of the worker.

    kombu lists KeyError among the connection errors of Redis, but every dictionary raises it.
    """
    is_lost = isinstance(error, connection_errors) and not isinstance(error, KeyError)
    return is_lost or isinstance(error, MemoryError) or is_shutting_down()


def is_shutting_down() -> bool:
    """Whether the worker in this process is about to end."""
    flags = (worker_state.should_stop, worker_state.should_terminate)
    return any(flag is not None and flag is not False for flag in flags)  # 0 is the exit code of a warm shutdown


def _settle_all(*, is_last: bool = False) -> None:
    for qos in tuple(_unsettled):
        qos.settle(is_last=is_last)


signals.task_received.connect(_remember_request, weak=False)
atexit.register(_settle_all, is_last=True)
# A pool child inherits the pending entries, but its parent writes them.
os.register_at_fork(after_in_child=_unsettled.clear)

"""Celery's Redis transport, made to survive Redis outages, broken connections and malformed messages.

Same keys and same wire format as kombu's: stock workers, producers and monitors share queues with this one, and each
restores what the other left unacknowledged. `use_transport(app)` switches it on for one Celery app.

What each override fixes, in kombu 5.7.0 (files below `kombu/transport`):

- `Channel._create_client` (redis.py:2047): makes a new client object for every append, ack and publish, which takes a
  quarter of a millisecond each. Here there is one per channel and connection pool.
- `Channel._connparams` (redis.py:1956): after a lost connection the transport has no client any more; an ack or a
  restore then raises AttributeError, which is not a connection error and ends the worker. Here a channel remembers how
  it connected, and acks go by tag over a new connection.
- `Channel._get_pool` (redis.py:2064): when a machine on the network path vanishes silently, the consumer waits for a
  time-out on each idle connection in turn. Here one broken connection discards the idle ones.
- `QoS.restore_unacked_once` (virtual/base.py:277) and `QoS.restore_unacked` (redis.py:493): closing a channel, as every
  reconnect does, puts every unacked message back, so running tasks run again. With Redis down this fails, and messages
  are idle until the visibility timeout. Here messages whose task runs in this process stay as they are, and others
  that could not be put back are put back after the reconnect.
- `QoS.ack` (redis.py:499) and `QoS.reject` (redis.py:503): an ack that fails is logged and forgotten, and its finished
  task runs again; being a MULTI, it fails whenever Redis is out of memory. Here it stays pending until Redis has it,
  and is not a MULTI.
- `QoS.append` (redis.py:476): a message is popped first and filed as unacked afterwards; if filing fails, it is lost.
  Here it is delivered all the same and filed later. It is filed under the queue it came from, not under its exchange,
  which may have several bindings, or none declared yet, when the message is put back.
  A dispatch of umbel's is not filed at all while its channel is open, which saves two round trips: losing it is
  harmless.
- `QoS.restore_visible` (redis.py:523): called after each connect and every `unacked_restore_interval` seconds. Here it
  also writes pending acks and entries.
- `Channel._brpop_read` (redis.py:1476) takes one message per round trip. Here it takes up to fifty of umbel's own.
- `Channel._brpop_read` (redis.py:1476) and `Message.__init__` (virtual/base.py:331): a message is parsed outside of any
  handler, so bad JSON or base64 ends the worker; a missing field is a KeyError, which counts as a connection error, so
  messages in flight run again. Here such a message goes to the quarantine, and the next one is served. So does any
  other message whose delivery fails, unless the connection, the memory or the worker is at its end.
- `Message.__init__` (../message.py:62): decompresses without bounds. Here it stops at `most_inflated_bytes`.
- `Message._decode` (../message.py:204): Celery acknowledges a message whose body does not deserialize. Here it goes to
  the quarantine.
- `Channel._subscribe` (redis.py:1379): uses PSUBSCRIBE for plain names, which Redis denies to users with access to a
  pattern of channels, and reconnects once a second. Here it is SUBSCRIBE, and a denial ends the worker with a message.
- `Channel._get` (redis.py:1645): a message fetched by `basic_get` is also filed under its queue.
- `Channel._deliver_fanout_message` (redis.py:1451): a malformed broadcast is logged and dropped.
- `Transport.connection_errors` (redis.py:234): an error reply (a replica's READONLY after a failover, OOM) ends the
  worker unless the app sets `broker_channel_error_retry`. Here it is a reason to reconnect.
- `Connection.get_transport_cls` (../connection.py:738): how `use_transport` puts this transport in place.

A dispatch may bypass kombu's consumer through `Channel.take_directly`; `celery_app/direct_delivery.py` decides.

Not fixed here: a message that Redis has sent and this process has not yet read is lost with the process, because BRPOP
removes it at once; and a prefork child that has just received a job when the connection breaks may run it although
Celery takes it back. umbel's steps tolerate both: lost work is redispatched, and work is claimed before it is executed.
Sentinel and cluster brokers stay with kombu.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu is a typed package whose transports carry no annotations.

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

import celery
import redis
from kombu import connection as kombu_connection
from kombu.transport import redis as stock
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from ...orchestration.connection.failpoints import failpoint
from ...orchestration.connection.redis_client import refusal_of
from ...orchestration.model.errors import ConfigurationError
from ...tasks.messages.template import HEADER
from .faults import Undecodable, body_fault, envelope_fault
from .quarantine import Quarantine, QuarantinedMessage, quarantined, set_aside
from .received import Message, ReceivedMessage
from .unacked import REFUSED, QoS, says_nothing_about

__all__ = ["TRANSPORT", "Channel", "Quarantine", "QuarantinedMessage", "Transport", "quarantined", "use_transport"]

logger = logging.getLogger(__name__)

#: For Celery's `broker_transport` where `use_transport` cannot be called. Meant for one redis:// URL: after a failover
#: kombu uses its own transport, and rediss:// needs `broker_use_ssl`, because the name hides the scheme from kombu.
TRANSPORT = "umbel.workers.transport:Transport"

#: Most messages that one fetch takes, and most single messages between fetches that find nothing.
_MAX_FETCH = 50
_MAX_SKIP = 31

#: Takes messages from the end of a list that is served next, as long as they contain a text; a quarter of it at most.
_FETCH = """
local most = math.min(tonumber(ARGV[1]), math.ceil(redis.call('LLEN', KEYS[1]) / 4))
if most < 1 then return {} end
local found, taken = redis.call('LRANGE', KEYS[1], -most, -1), {}
for i = #found, 1, -1 do
  if not string.find(found[i], ARGV[2], 1, true) then break end
  taken[#taken + 1] = found[i]
end
if #taken > 0 then redis.call('LTRIM', KEYS[1], 0, -#taken - 1) end
return taken
"""


def use_transport(app: celery.Celery) -> None:
    """Let an app reach redis://, rediss:// and redis+socket:// brokers through this module's transport.

    To be called before the app's first connection; changes none of its settings. All other brokers, including Sentinel,
    stay with kombu, and monitors show the URL unchanged.

    Raises:
        ConfigurationError: The app connects through a connection class of its own.
    """
    if app.amqp.Connection not in (kombu_connection.Connection, Connection):
        raise ConfigurationError(
            f"The Celery app {app.main!r} cannot use umbel's Redis transport: app.amqp.Connection was expected to be "
            f"kombu.Connection and is {app.amqp.Connection!r}. Set broker_transport={TRANSPORT!r} instead."
        )
    app.amqp.Connection = Connection


class Connection(kombu_connection.Connection):
    """A broker connection that uses this module's transport in place of kombu's Redis transport.

    It replaces the class, not its name, so a URL's scheme still decides TLS, failover and what `as_uri` shows.
    """

    def get_transport_cls(self) -> Any:
        """The transport class for the URL."""
        found = super().get_transport_cls()
        return Transport if found is stock.Transport else found


class WaryPool(redis.ConnectionPool):
    """A connection pool that disconnects all idle connections when one is found broken.

    Otherwise, if a machine on the network path has vanished silently, each of them would cost a time-out of its own.
    """

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        super().release(connection)
        if not connection.is_connected:
            self.disconnect(inuse_connections=False)


class Channel(stock.Channel):
    """A channel that checks what it receives, and that can still acknowledge messages after it is closed."""

    Message = Message
    QoS = QoS
    #: Whether umbel's own messages are fetched in batches; a transport option.
    batched_fetch = True
    #: The most bytes that a compressed body may unpack to; a transport option. umbel compresses none of its own.
    most_inflated_bytes = 32 << 20
    from_transport_options = (  # type: ignore[assignment]
        *stock.Channel.from_transport_options,
        "batched_fetch",
        "most_inflated_bytes",
    )

    #: Delivers a dispatch, bypassing kombu's and Celery's consumers; returns False for a message it does not take.
    take_directly: Callable[[ReceivedMessage, Channel], bool] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._synchronous: Any = None
        self._fetching: Any = None
        self._skip = self._skips_left = 0
        super().__init__(*args, **kwargs)
        self._remembered = super()._connparams()

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)
        pool = self.pool
        if self._synchronous is None or self._synchronous.connection_pool is not pool:
            self._synchronous = super()._create_client()
        return self._synchronous

    def _get_pool(self, asynchronous: bool = False) -> Any:
        stock_pool = super()._get_pool(asynchronous)
        return WaryPool(stock_pool.connection_class, **stock_pool.connection_kwargs)

    def _subscribe(self) -> None:
        topics = [topic for queue in self.active_fanout_queues for topic in self._get_subscribe_topics(queue)]
        if any(set("*?[\\") & set(topic) for topic in topics):
            super()._subscribe()
        elif topics:
            if self.subclient.connection._sock is None:
                self.subclient.connection.connect()
            self._in_listen = self.subclient.connection
            self.subclient.subscribe(*topics)

    def _unsubscribe_from(self, queue: str) -> None:
        super()._unsubscribe_from(queue)
        if self.subclient.connection and self.subclient.connection._sock:
            self.subclient.unsubscribe(*self._get_subscribe_topics(queue))

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)
        except redis.exceptions.ResponseError as error:
            raise refusal_of(str(self.connection.client.as_uri()), error) or error from None
        except RecursionError as error:
            _log_dropped("any exchange", error)
            return False

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is not None and self.connection.client is not None:
            return super()._connparams(asynchronous)
        if asynchronous:
            raise redis.ConnectionError("This channel is closed, and nothing can be consumed over it.")
        return dict(self._remembered)

    def _brpop_read(self, **options: Any) -> bool:
        try:
            try:
                reply = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not reply:
                raise Empty
            key, raw = reply
            queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self.admit(raw, queue)
            if self.batched_fetch:
                self._fetch_dispatches(bytes_to_str(key), queue)
            return True
        finally:
            self._in_poll = None  # type: ignore[assignment]  # kombu takes False, None and a connection
            self._flush_brpop_reauth()

    def _fetch_dispatches(self, key: str, queue: str) -> None:
        """Take more of umbel's own messages, in one round trip, from a list that has just returned a message.

        Takes at most a quarter of the list, so that other workers get their share, and less often while it finds none.
        Only umbel's messages are taken: others are filed one by one. Those lost with this process are redispatched.
        """
        if self._skips_left > 0:
            self._skips_left -= 1
            return
        room = self.qos.can_consume_max_estimate()
        most = _MAX_FETCH if room is None else min(room, _MAX_FETCH)
        if most < 2:
            return
        try:
            if self._fetching is None or self._fetching.connection_pool is not self.pool:
                # Not kombu's client, which adds the key prefix for some commands only.
                self._fetching = redis.Redis(connection_pool=self.pool)
            client = self._fetching
            failpoint("fetch", "before")
            found = client.eval(_FETCH, 1, f"{self.global_keyprefix}{key}", most, f'"{HEADER}"')
            failpoint("fetch", "after")
        except REFUSED as error:
            logger.info("Messages are fetched one by one for now: %r", error, extra={"action": "single_fetch"})
            found = []
        self._skip = 0 if found else min(2 * self._skip + 1, _MAX_SKIP)
        self._skips_left = self._skip
        for raw in found:
            self.admit(raw, queue)

    def admit(self, raw: bytes, queue: str) -> None:
        """Deliver a message taken from a queue, or set it aside if it is malformed or cannot be delivered.

        Raises:
            Exception: A lost connection, no memory, or whatever a worker raises that is about to end.
        """
        envelope = ReceivedMessage()
        envelope.queue, envelope.raw = queue, raw
        try:
            text = bytes_to_str(raw)
            decoded = loads(text) if "__type__" in text else json.loads(text)  # kombu's inspects each object in it
        except MemoryError:  # says nothing about the message
            raise
        except Exception as error:
            self.set_aside(envelope, f"expected JSON: {error!r:.200}")
            return
        if isinstance(decoded, dict):
            envelope.update(decoded)
            decoded = envelope
        try:
            for _ in range(failpoint("deliver", "before")):
                if self.take_directly is None or not self.take_directly(envelope, self):
                    self.connection._deliver(decoded, queue)
            failpoint("deliver", "after")
        except Undecodable as malformed:
            self.set_aside(envelope, str(malformed))
        except Exception as error:
            if says_nothing_about(error, self.connection_errors):
                raise
            misread = self._task_fault(envelope)
            cause = error if misread is None else None
            self.set_aside(envelope, f"{misread or 'its delivery failed'} ({error!r:.200})", cause)
            if envelope_fault(envelope, self.codecs) is None:  # otherwise it got nowhere
                self.qos.ack(envelope["properties"]["delivery_tag"])
        finally:
            envelope.raw = None  # the message may stay here for hours

    def set_aside(self, envelope: ReceivedMessage, reason: str, cause: Exception | None = None) -> None:
        """Move a malformed message into the quarantine; a second call does nothing.

        Never fails: if Redis does not store the message, it is lost, and a log line shows its beginning.

        Args:
            envelope: The message.
            reason: What was expected and what was found.
            cause: An error whose traceback is logged, because it may be a defect of a consumer.
        """
        raw, envelope.raw = envelope.raw, None
        if raw is None:
            return
        logger.error(
            "Quarantined a malformed message of queue %r: %s.",
            envelope.queue,
            reason,
            exc_info=cause,
            extra={"action": "message_quarantined"},
        )
        # Not kombu's client, which adds the key prefix for some commands only.
        client = redis.Redis(connection_pool=self.pool)
        try:
            set_aside(client, self.global_keyprefix, envelope.queue, raw, reason)
        except REFUSED as error:
            logger.error(
                "Redis did not store that message, and it is lost: %r. It was: %r",
                error,
                raw[:4096],
                extra={"action": "message_lost"},
            )

    def _get(self, queue: str) -> Any:  # type: ignore[override]  # as in kombu's own channel
        decoded = super()._get(queue)
        if not isinstance(decoded, dict):
            return decoded
        envelope = ReceivedMessage(decoded)
        envelope.queue = queue
        return envelope

    def _task_fault(self, envelope: ReceivedMessage) -> str | None:
        """What makes Celery fail on a message, or None if the message is well-formed."""
        try:
            message = Message(dict(envelope), channel=self)
            return body_fault(message.headers, message.decode())
        except Exception as error:
            return f"its body does not deserialize: {error!r:.200}"

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        self.connection.before_broadcast()
        try:
            return bool(super()._deliver_fanout_message(message, exchange))
        except Exception as error:
            if says_nothing_about(error, self.connection_errors):
                raise
            _log_dropped(repr(exchange), error)
            return False


def _log_dropped(exchange: str, error: Exception) -> None:
    logger.warning(
        "Dropped a malformed broadcast on %s: %.200r.",
        exchange,
        error,
        exc_info=None if isinstance(error, Undecodable | RecursionError) else error,
        extra={"action": "broadcast_dropped"},
    )


class Transport(stock.Transport):
    """kombu's Redis transport with this module's channels."""

    Channel = Channel
    #: Seconds that a BRPOP waits while the queues are empty: twice kombu's, so an idle worker sends half as many.
    brpop_timeout = 2
    #: Called before each broadcast, such as a remote control command, so that it finds the pool's state up to date.
    before_broadcast: Callable[[], None] = staticmethod(lambda: None)
    connection_errors = (*stock.Transport.connection_errors, redis.ResponseError, redis.InvalidResponse)


# For connections made with TRANSPORT: monitors connect to the URL that they are shown, and only know `redis`.
kombu_connection.resolve_aliases[TRANSPORT] = "redis"

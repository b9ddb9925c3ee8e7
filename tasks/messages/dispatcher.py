"""Dispatches as Celery messages: ids only, never payloads.

*Promise.* A dispatch may be lost, doubled or late without any effect; a publish that fails is only logged, because the
sweep redispatches unclaimed work.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu is a typed package most of whose functions carry no annotations.

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import Celery, signals
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES, virtual
from redis.exceptions import RedisError

from ...orchestration.connection.cluster import is_cluster
from ...orchestration.connection.failpoints import failpoint
from ...orchestration.connection.portal import Portal
from ...orchestration.connection.redis_client import flaw_of
from ...orchestration.connection.settings import Settings, redact_url
from ...orchestration.model.commands import Command, Deliver
from ...orchestration.model.errors import ConfigurationError, UmbelError
from ...orchestration.model.plan import Plan
from ...orchestration.store.pipeline import Connection
from ...orchestration.store.replies import Dispatch
from .template import HEADER, Template, send_options, shown_arguments, task_id_of

__all__ = ["HEADER", "CeleryDispatcher", "checked_broker", "publishing_app", "tls_options", "transport_options"]

logger = logging.getLogger("umbel.dispatch")


#: Messages that are sent concurrently to a broker other than a plain Redis.
_SENDERS = 8
#: How long, in seconds, the cached configuration is valid while no setting is assigned. Only this limit detects a
#: setting whose value was changed in place, and a changed environment variable.
_CONFIGURATION_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Broker:
    """The broker settings of an app, cached: Celery takes some ten microseconds to look up one setting.

    Attributes:
        url: Where messages are sent.
        is_plain_redis: Whether sending a message is only a push to a list.
        prefix: Prefix of the list names.
        conf, changes: The configuration this was read from, and the settings assigned in it.
        read_at: When it was read, on the monotonic clock.
    """

    url: Any
    is_plain_redis: bool
    prefix: str
    conf: Any
    changes: dict[str, Any]
    read_at: float

    @staticmethod
    def of(app: Celery) -> _Broker:
        conf = app.conf
        url = conf.broker_write_url or conf.broker_url
        plain = isinstance(url, str) and url.startswith("redis://") and ";" not in url
        is_changed = conf.broker_use_ssl or conf.task_send_sent_event or conf.task_compression
        is_plain_redis = plain and not is_changed
        prefix = (conf.broker_transport_options or {}).get("global_keyprefix", "")
        # `app.conf` again: the accesses above replace a pending configuration.
        return _Broker(url, is_plain_redis, prefix, app.conf, dict(app.conf.changes), time.monotonic())

    def is_as_in(self, app: Celery) -> bool:
        """Whether no setting has been assigned since."""
        return app.conf is self.conf and self.conf.changes == self.changes


class CeleryDispatcher:
    """Sends through a Celery app's broker; to a plain Redis it pushes filled-in templates."""

    def __init__(self, app: Celery, portal: Portal, *, grouped: bool = True) -> None:
        """Args:
        app: The app whose broker is used.
        portal: The portal whose loop holds the connection to a plain Redis broker.
        grouped: Whether messages of one iteration of the loop are sent together.
        """
        self.app = app
        self._portal, self._is_grouped = portal, grouped
        self._templates: dict[tuple[str, str], Template] = {}
        self._broker_read: _Broker | None = None
        self._connection: Connection | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._threads_pid = 0
        self._sending: set[asyncio.Future[None]] = set()

    async def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Send one message per dispatch. Never raises; when it returns, they are sent or the log says why not."""
        if not dispatches:
            return
        try:
            messages = self.messages(plan, dispatches)
            for _ in range(failpoint("dispatch", "before")):
                if messages is None:
                    send = partial(self._send, plan, dispatches)
                    # In the sender's context, where message tracing finds the step that the messages follow from.
                    await asyncio.get_running_loop().run_in_executor(self._senders(), copy_context().run, send)
                else:
                    for key, waiting in messages.items():
                        await self._broker().command("dispatch work", "LPUSH", key, *waiting)
            failpoint("dispatch", "after")
        except Exception as error:  # the work is in Redis already: a broker failure must not make it look lost
            self._not_sent(len(dispatches), error)

    def dispatch_soon(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Like `dispatch`, without waiting. Must be called on the portal's loop."""
        messages = self.messages(plan, dispatches)
        if messages is None:
            sending = asyncio.ensure_future(self.dispatch(plan, dispatches))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
            return
        for key, waiting in messages.items():
            for _ in range(failpoint("push", "before")):
                self._broker().post(("LPUSH", key, *waiting), partial(self._not_sent, len(waiting)))

    def _senders(self) -> ThreadPoolExecutor:
        """Threads for a broker client that blocks; a forked child needs its own."""
        if self._threads is None or self._threads_pid != os.getpid():
            self._threads_pid = os.getpid()
            self._threads = ThreadPoolExecutor(_SENDERS, thread_name_prefix="umbel-dispatch")
        return self._threads

    @staticmethod
    def _not_sent(count: int, error: Exception) -> None:
        expected = isinstance(error, (RedisError, OperationalError, OSError, UmbelError))
        logger.warning(
            "%d messages were not sent (%s); the sweep redispatches",
            count,
            error,
            exc_info=None if expected else error,
            extra={"action": "dispatch_failed"},
        )

    def _broker(self) -> Connection:
        url = self.redis_url
        if self._connection is None or self._connection.url != url:
            self._connection = Connection(url, self._portal, patience_seconds=1.0, grouped=self._is_grouped)
        return self._connection

    def _configured(self) -> _Broker:
        """The current broker settings."""
        known = self._broker_read
        if known is None or not known.is_as_in(self.app):
            self._templates = {}
        elif time.monotonic() - known.read_at < _CONFIGURATION_SECONDS:
            return known
        self._broker_read = _Broker.of(self.app)
        return self._broker_read

    def _is_plain_redis(self) -> bool:
        """Whether messages can be pushed straight to Redis: no TLS, failover, compression or signal receivers."""
        return (
            self._configured().is_plain_redis
            and not signals.before_task_publish.receivers
            and not signals.after_task_publish.receivers
        )

    def pushes(
        self, plan: Plan, run_id: str, commands: Sequence[Command], redis_url: str | None
    ) -> dict[str, tuple[str, str]] | None:
        """The messages of a start, to be pushed by the script that creates their work: work id -> (list, message).

        None if the broker is not the Redis at `redis_url`.
        """
        if redis_url is None or redis_url != self.redis_url:
            return None
        found: dict[str, tuple[str, str]] = {}
        for made in commands:
            if isinstance(made, Deliver):
                step = made.step
                dispatch = Dispatch(run_id, made.work_id, 1, step.name, step.queue or made.queue, step.priority or 0)
                messages = self.messages(plan, [dispatch])
                if messages is None:
                    return None
                [(key, [message])] = messages.items()
                found[made.work_id] = (key, message)
        return found

    def messages(self, plan: Plan, dispatches: Sequence[Dispatch]) -> dict[str, list[str]] | None:
        """The messages of these dispatches by Redis list; None if the broker needs more than a push."""
        if not self._is_plain_redis() or any(dispatch.priority for dispatch in dispatches):
            return None
        prefix = self._configured().prefix
        messages: dict[str, list[str]] = defaultdict(list)
        for dispatch in dispatches:
            step = plan.by_name[dispatch.step]
            template = self._templates.get((step.task, dispatch.queue))
            if template is None:
                template = Template.of(self.app, step.task, dispatch, plan.workflow)
                self._templates[step.task, dispatch.queue] = template
            messages[f"{prefix}{dispatch.queue}"].append(template.fill(dispatch))
        return messages

    @property
    def redis_url(self) -> str:
        """The Redis to which `messages` are pushed."""
        url: str = self._configured().url
        return url

    def _send(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        with self.app.producer_pool.acquire(block=True, timeout=5) as producer:
            for dispatch in dispatches:
                options: dict[str, Any] = send_options(
                    dispatch, plan.workflow, task_id_of(dispatch), shown_arguments(dispatch)
                )
                arguments = (dispatch.run_id, dispatch.work_id, dispatch.dispatch_no)
                self.app.send_task(plan.by_name[dispatch.step].task, args=arguments, producer=producer, **options)

    async def backlog(self, queue: str) -> int | None:
        """The number of messages waiting in a queue; None if the broker does not report it."""
        return await asyncio.to_thread(self._length, queue)

    def _length(self, queue: str) -> int | None:
        try:
            with self.app.connection_for_read() as connection, connection.channel() as channel:
                if isinstance(channel, virtual.Channel):  # where an empty queue does not exist
                    return int(channel._size(queue))
                try:
                    return int(channel.queue_declare(queue=queue, passive=True).message_count)
                except connection.channel_errors:  # not declared, so nothing can be in it
                    return 0
        except Exception as error:
            logger.debug("the length of queue %s is unknown: %s", queue, error, extra={"action": "backlog_unknown"})
            return None


def publishing_app(settings: Settings) -> Celery:
    """A Celery app that only sends: for clients, which have no worker app."""
    app = Celery("umbel-client", broker=checked_broker(settings), set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_default_queue=settings.queue,
        task_create_missing_queues=True,
        broker_transport_options=transport_options(settings),
        broker_use_ssl=tls_options(settings),
    )
    return app


def checked_broker(settings: Settings) -> str:
    """The broker's URL, checked. The URL of the state's Redis is checked where it is connected to.

    Raises:
        ConfigurationError: It names no broker that Celery could reach; the text shows no password.
    """
    url = settings.broker
    if is_cluster(url):
        raise ConfigurationError(
            f"A Redis Cluster cannot be Celery's broker, which is {redact_url(url)!r}. Set UMBEL_BROKER_URL to "
            "RabbitMQ (amqp://…) or to a single Redis (redis://…). Runs stay in the cluster, whatever the broker loses."
        )
    if settings.broker_url is None:
        return url
    reason = flaw_of(url)
    if reason is None and url.startswith("sentinel://") and settings.broker_sentinels is None:
        reason = "a Sentinel broker needs the name of the primary: sentinel://host1:26379,host2:26379/NAME/0"
    scheme = re.split(r"\+|://", url, maxsplit=1)[0]
    if reason is None and scheme not in TRANSPORT_ALIASES:
        reason = f"Celery has no transport {scheme!r}" if "://" in url else "it does not begin with redis:// or amqp://"
    if reason is not None:
        raise ConfigurationError(f"UMBEL_BROKER_URL is {redact_url(url)!r}, which cannot be used: {reason}.")
    return url


def tls_options(settings: Settings) -> dict[str, object] | None:
    """TLS of the broker connection: kombu verifies a `rediss://` server only if asked to; options in the URL win."""
    if (sentinels := settings.broker_sentinels) is not None:
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **sentinels.tls_options} if sentinels.has_tls else None
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED} if settings.broker.startswith("rediss://") else None


def transport_options(settings: Settings) -> dict[str, object]:
    """Options of the broker connection, for Redis brokers; see docs/running-in-production.md."""
    sentinels = settings.broker_sentinels
    if sentinels is None and not settings.broker.startswith(("redis", "valkey")):
        return {}
    own = {"batched_fetch": settings.batched_fetch} if sentinels is None else sentinels.transport_options
    return {
        "visibility_timeout": 86_400,
        "unacked_restore_interval": 20,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "retry_on_timeout": False,
        "global_keyprefix": settings.broker_prefix,
        **own,
    }

"""Doorbells as Celery messages: ids only, never payloads.

*Promise.* A doorbell may be lost, doubled or late without any effect; a publish that fails is only logged, because the
ring index rings again.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu is a typed package most of whose functions carry no annotations.

from __future__ import annotations

import logging
import os
import ssl
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from celery import Celery, signals
from kombu.exceptions import OperationalError
from kombu.transport import virtual
from redis.exceptions import RedisError

from ...orchestration.model.commands import Command, Deliver
from ...orchestration.model.plan import Plan
from ...orchestration.store.connection import Client, connect
from ...orchestration.store.failpoints import failpoint
from ...orchestration.store.replies import Doorbell
from ...orchestration.store.settings import Settings
from .template import HEADER, Template, send_options, shown_arguments, task_id_of

__all__ = ["HEADER", "CeleryDispatcher", "publishing_app", "tls_options", "transport_options"]

logger = logging.getLogger("umbel.dispatch")


class CeleryDispatcher:
    """Rings through a Celery app's broker; on a plain Redis broker with messages that are only filled in."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._templates: dict[tuple[str, str], Template] = {}
        self._redis: Client | None = None
        self._pid = 0

    def ring(self, plan: Plan, doorbells: Sequence[Doorbell]) -> None:
        """Send one message per doorbell over one connection. Never raises."""
        if not doorbells:
            return
        try:
            messages = self.messages(plan, doorbells)
            for _ in range(failpoint("ring", "before")):
                if messages is None:
                    self._send(plan, doorbells)
                else:
                    for key, waiting in messages.items():
                        self._client().lpush(key, *waiting)
            failpoint("ring", "after")
        except (RedisError, OperationalError, OSError, *self.app.connection_for_write().connection_errors) as error:
            logger.warning(
                "%d doorbells of workflow %s were not sent (%s); the sweep rings again",
                len(doorbells),
                plan.workflow,
                error,
                extra={"action": "ring_failed"},
            )
        except Exception:  # what the doorbells are for is in Redis already, and no fault of ours may hide that
            logger.exception(
                "%d doorbells of workflow %s were not sent; the sweep rings again",
                len(doorbells),
                plan.workflow,
                extra={"action": "ring_failed"},
            )

    def _is_plain_redis(self) -> bool:
        """Whether nothing but Redis stands between us and the queue: no TLS set-up, fail-over, or signal receivers."""
        conf = self.app.conf
        url = conf.broker_write_url or conf.broker_url
        return (
            isinstance(url, str)
            and url.startswith("redis://")
            and ";" not in url
            and not conf.broker_use_ssl
            and not conf.task_send_sent_event
            and not signals.before_task_publish.receivers
            and not signals.after_task_publish.receivers
        )

    def pushes(
        self, plan: Plan, run_id: str, commands: Sequence[Command], redis_url: str | None
    ) -> dict[str, tuple[str, str]] | None:
        """The doorbells of a start, to be pushed by the very script that makes their work: work id -> list, message.

        None where the broker is not the Redis at `redis_url`.
        """
        if redis_url is None or redis_url != self.redis_url:
            return None
        found: dict[str, tuple[str, str]] = {}
        for made in commands:
            if isinstance(made, Deliver):
                step = made.step
                bell = Doorbell(run_id, made.work_id, 1, step.name, step.queue or made.queue, step.priority or 0)
                messages = self.messages(plan, [bell])
                if messages is None:
                    return None
                [(key, [message])] = messages.items()
                found[made.work_id] = (key, message)
        return found

    def messages(self, plan: Plan, doorbells: Sequence[Doorbell]) -> dict[str, list[str]] | None:
        """The messages of these doorbells by the Redis list they go to; None if the broker takes more than a push."""
        if not self._is_plain_redis() or any(bell.priority for bell in doorbells):
            return None
        prefix = (self.app.conf.broker_transport_options or {}).get("global_keyprefix", "")
        messages: dict[str, list[str]] = defaultdict(list)
        for bell in doorbells:
            step = plan.by_name[bell.step]
            template = self._templates.get((step.task, bell.queue))
            if template is None:
                template = Template.of(self.app, step.task, bell, plan.workflow)
                self._templates[step.task, bell.queue] = template
            messages[f"{prefix}{bell.queue}"].append(template.fill(bell))
        return messages

    def _client(self) -> Client:
        if self._redis is None or self._pid != os.getpid():
            self._redis, self._pid = connect(self.redis_url), os.getpid()
        return self._redis

    @property
    def redis_url(self) -> str:
        """Where `messages` are pushed."""
        url: str = self.app.conf.broker_write_url or self.app.conf.broker_url
        return url

    def _send(self, plan: Plan, doorbells: Sequence[Doorbell]) -> None:
        with self.app.producer_pool.acquire(block=True, timeout=5) as producer:
            for bell in doorbells:
                options: dict[str, Any] = send_options(bell, plan.workflow, task_id_of(bell), shown_arguments(bell))
                arguments = (bell.run_id, bell.work_id, bell.dispatch_no)
                self.app.send_task(plan.by_name[bell.step].task, args=arguments, producer=producer, **options)

    def backlog(self, queue: str) -> int | None:
        """Messages waiting in a queue; None when the broker does not say."""
        try:
            with self.app.connection_for_read() as connection, connection.channel() as channel:
                if isinstance(channel, virtual.Channel):  # where an empty queue is one that does not exist
                    return int(channel._size(queue))
                try:
                    return int(channel.queue_declare(queue=queue, passive=True).message_count)
                except connection.channel_errors:  # nobody has declared it, so nothing can be in it
                    return 0
        except Exception as error:
            logger.debug("the length of queue %s is not known: %s", queue, error, extra={"action": "backlog_unknown"})
            return None


def publishing_app(settings: Settings) -> Celery:
    """A Celery app that only sends: for clients, which have no worker app."""
    app = Celery("umbel-client", broker=settings.broker_url or settings.redis_url, set_as_current=False)
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


def tls_options(settings: Settings) -> dict[str, object] | None:
    """TLS of the broker connection: kombu verifies a `rediss://` server only when it is told to. The URL goes first."""
    broker = settings.broker_url or settings.redis_url or ""
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED} if broker.startswith("rediss://") else None


def transport_options(settings: Settings) -> dict[str, object]:
    """Options of the broker connection, for Redis brokers; see docs/running-in-production.md."""
    broker = settings.broker_url or settings.redis_url or ""
    if not broker.startswith(("redis", "valkey")):
        return {}
    return {
        "visibility_timeout": 86_400,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "retry_on_timeout": False,
        "global_keyprefix": f"{settings.key_prefix}:broker:",
        "batched_fetch": settings.batched_fetch,
    }

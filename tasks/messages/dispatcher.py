"""Dispatches as Celery messages: ids only, never payloads.

*Promise.* A dispatch may be lost, doubled or late without any effect; a publish that fails is only logged, because the
sweep redispatches unclaimed work.
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
from ...orchestration.store.replies import Dispatch
from ...orchestration.store.settings import Settings
from .template import HEADER, Template, send_options, shown_arguments, task_id_of

__all__ = ["HEADER", "CeleryDispatcher", "publishing_app", "tls_options", "transport_options"]

logger = logging.getLogger("umbel.dispatch")


class CeleryDispatcher:
    """Dispatches through a Celery app's broker; on a plain Redis broker with messages filled in from templates."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._templates: dict[tuple[str, str], Template] = {}
        self._redis: Client | None = None
        self._pid = 0

    def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Send one message per dispatch over one connection. Never raises."""
        if not dispatches:
            return
        try:
            messages = self.messages(plan, dispatches)
            for _ in range(failpoint("dispatch", "before")):
                if messages is None:
                    self._send(plan, dispatches)
                else:
                    for key, waiting in messages.items():
                        self._client().lpush(key, *waiting)
            failpoint("dispatch", "after")
        except (RedisError, OperationalError, OSError, *self.app.connection_for_write().connection_errors) as error:
            logger.warning(
                "%d messages of workflow %s were not sent (%s); the sweep redispatches",
                len(dispatches),
                plan.workflow,
                error,
                extra={"action": "dispatch_failed"},
            )
        except Exception:  # the work is in Redis already, and a bug here must not make it look otherwise
            logger.exception(
                "%d messages of workflow %s were not sent; the sweep redispatches",
                len(dispatches),
                plan.workflow,
                extra={"action": "dispatch_failed"},
            )

    def _is_plain_redis(self) -> bool:
        """Whether messages can be pushed straight to Redis: no TLS, failover or signal receivers are involved."""
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
        """The dispatches of a start, pushed by the same script that creates their work: work id -> list, message.

        None where the broker is not the Redis at `redis_url`.
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
        """The messages of these dispatches by Redis list; None if a push is not all that the broker needs."""
        if not self._is_plain_redis() or any(dispatch.priority for dispatch in dispatches):
            return None
        prefix = (self.app.conf.broker_transport_options or {}).get("global_keyprefix", "")
        messages: dict[str, list[str]] = defaultdict(list)
        for dispatch in dispatches:
            step = plan.by_name[dispatch.step]
            template = self._templates.get((step.task, dispatch.queue))
            if template is None:
                template = Template.of(self.app, step.task, dispatch, plan.workflow)
                self._templates[step.task, dispatch.queue] = template
            messages[f"{prefix}{dispatch.queue}"].append(template.fill(dispatch))
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

    def _send(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        with self.app.producer_pool.acquire(block=True, timeout=5) as producer:
            for dispatch in dispatches:
                options: dict[str, Any] = send_options(
                    dispatch, plan.workflow, task_id_of(dispatch), shown_arguments(dispatch)
                )
                arguments = (dispatch.run_id, dispatch.work_id, dispatch.dispatch_no)
                self.app.send_task(plan.by_name[dispatch.step].task, args=arguments, producer=producer, **options)

    def backlog(self, queue: str) -> int | None:
        """Messages waiting in a queue; None if the broker does not report it."""
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
    """TLS of the broker connection: kombu verifies a `rediss://` server only if asked to; options in the URL win."""
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

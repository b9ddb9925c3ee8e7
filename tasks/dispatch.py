"""Doorbells as Celery messages: ids only, never payloads.

*Promise.* A doorbell may be lost, doubled or late without any effect; a publish that fails is only logged, because the
ring index rings again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import OperationalError

from ..orchestration.plan import Plan
from ..orchestration.records import Doorbell
from ..orchestration.settings import Settings

logger = logging.getLogger("umbel.dispatch")

#: Message header by which a consumer knows umbel's messages, also those whose task it lacks: the workflow's name.
HEADER = "umbel_workflow"


class CeleryDispatcher:
    """Rings through a Celery app's broker."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def ring(self, plan: Plan, doorbells: Sequence[Doorbell]) -> None:
        """Send one message per doorbell over one pooled connection."""
        if not doorbells:
            return
        try:
            with self.app.producer_pool.acquire(block=True, timeout=5) as producer:
                for bell in doorbells:
                    shown = f"({bell.run_id}, {bell.work_id}, {bell.dispatch_no})"
                    self.app.send_task(
                        plan.by_name[bell.step].task,
                        args=(bell.run_id, bell.work_id, bell.dispatch_no),
                        task_id=f"{bell.work_id}-{bell.dispatch_no}",
                        queue=bell.queue,
                        priority=bell.priority or None,
                        headers={HEADER: plan.workflow},
                        argsrepr=shown,
                        kwargsrepr="{}",
                        ignore_result=True,
                        serializer="json",
                        producer=producer,
                        retry=False,
                    )
        except (OperationalError, OSError, *self.app.connection_for_write().connection_errors) as error:
            logger.warning(
                "%d doorbells of workflow %s were not sent (%s); the sweep rings again",
                len(doorbells),
                plan.workflow,
                error,
                extra={"action": "ring_failed"},
            )

    def backlog(self, queue: str) -> int | None:
        """Messages waiting in a queue; None when the broker does not say."""
        try:
            with self.app.connection_for_read() as connection, connection.channel() as channel:
                return int(channel.queue_declare(queue=queue, passive=True).message_count)
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
    )
    return app


def transport_options(settings: Settings) -> dict[str, object]:
    """Options of the broker connection, for Redis brokers; see docs/running-in-production.md."""
    broker = settings.broker_url or settings.redis_url or ""
    if not broker.startswith(("redis", "valkey")):
        return {}
    return {
        "visibility_timeout": 86_400,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": False,
        "global_keyprefix": f"{settings.key_prefix}:broker:",
    }

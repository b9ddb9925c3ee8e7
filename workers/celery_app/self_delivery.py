"""Dispatches that a worker delivers to itself, bypassing the broker.

Parked work is resumed by a worker that has the code. Dispatched through the queue, it might reach a worker that lacks
the code and be parked again, repeatedly while workers of both kinds run, as in a rolling deploy.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery.worker import state as worker_state

from ...orchestration.model.plan import Plan
from ...orchestration.store.replies import Dispatch
from ...tasks.messages.dispatcher import CeleryDispatcher
from ..transport.channel import Channel

logger = logging.getLogger("umbel.worker")


class SelfDelivery:
    """Delivery from a worker to itself; it needs a consumer on umbel's Redis transport."""

    def __init__(self) -> None:
        self._consumer: Any = None

    def attach(self, consumer: Any) -> None:
        """Set the worker's consumer; called after each connect."""
        self._consumer = consumer

    def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch], dispatcher: CeleryDispatcher) -> list[Dispatch]:
        """Take what this worker consumes and has room for; return the rest, to be dispatched through the broker.

        Promise: what is taken may be lost, as any dispatch may; the sweep then redispatches it. May be called from any
        thread.
        """
        consumer = self._consumer
        channel = getattr(getattr(consumer, "task_consumer", None), "channel", None)
        hub = getattr(consumer, "hub", None)
        is_ending = worker_state.should_stop is not None or worker_state.should_terminate is not None
        if hub is None or is_ending or not isinstance(channel, Channel):
            return list(dispatches)
        consumed = consumer.app.amqp.queues.consume_from
        fitting = [dispatch for dispatch in dispatches if dispatch.queue in consumed]
        room = channel.qos.can_consume_max_estimate()
        mine = fitting if room is None else fitting[:room]
        for dispatch in mine:
            messages = dispatcher.messages(plan, [dispatch])
            if messages is None:
                return list(dispatches)
            [[message]] = messages.values()
            hub.call_soon(self._deliver, message.encode(), dispatch.queue)
        taken = set(mine)
        return [dispatch for dispatch in dispatches if dispatch not in taken]

    def _deliver(self, message: bytes, queue: str) -> None:
        """Admit a message as if it had been fetched; runs on the hub's thread."""
        try:
            self._consumer.task_consumer.channel.admit(message, queue)
        except Exception as error:
            about = {"action": "dispatch_failed"}
            logger.warning("a dispatch to this worker was lost (%r); the sweep will redispatch it", error, extra=about)

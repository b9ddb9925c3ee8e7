"""Dispatches that a worker gives to itself, past the broker.

Parked work is taken up by a worker that has the code. Rung for in the queue, it might be taken by one that lacks it and
be parked once more, again and again while both kinds are at work, as in a rolling deploy.
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
    """A worker's way to itself; without a consumer on umbel's Redis transport there is none."""

    def __init__(self) -> None:
        self._consumer: Any = None

    def attach(self, consumer: Any) -> None:
        """The consumer of the worker; another one after a reconnect."""
        self._consumer = consumer

    def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch], dispatcher: CeleryDispatcher) -> list[Dispatch]:
        """Take what this worker consumes and has room for; what is left has to be rung for in the broker.

        *Promise:* of what is taken nothing may come, like of any dispatch. Called by any thread.
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
        """On the hub's thread: as if the message had been fetched."""
        try:
            self._consumer.task_consumer.channel.admit(message, queue)
        except Exception as error:
            about = {"action": "dispatch_failed"}
            logger.warning("a dispatch for this worker itself was lost (%r); the sweep rings again", error, extra=about)

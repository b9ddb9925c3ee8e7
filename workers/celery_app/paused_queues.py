"""What a worker does about queues that are paused for the whole deployment: it takes no messages from them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

logger = logging.getLogger("umbel.worker")


class PausedQueues:
    """The queues of one worker that it does not consume because they are paused.

    A queue whose consumer was cancelled by hand (`celery control cancel_consumer`) is left as it is.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._consumer: Any = None
        self._paused: set[str] = set()

    def attach(self, consumer: Any) -> None:
        """Set the worker's consumer; called after each connect."""
        self._consumer = consumer

    def before_start(self, paused: Collection[str]) -> None:
        """Deselect the paused queues before this worker consumes anything."""
        self._paused = set(paused) & set(self._app.amqp.queues.consume_from)
        for queue in self._paused:
            self._app.amqp.queues.deselect(queue)
        self._say("does not take messages from %s, which is paused", self._paused)

    def follow(self, paused: Collection[str]) -> None:
        """Stop consuming queues that are paused now, and resume the others. May be called from any thread."""
        consumer = self._consumer
        if consumer is None or getattr(consumer, "task_consumer", None) is None:
            return
        resumed = self._paused - set(paused)
        newly = (set(paused) & set(self._app.amqp.queues.consume_from)) - self._paused
        self._paused = (self._paused - resumed) | newly
        for queue in newly:
            consumer.call_soon(consumer.cancel_task_queue, queue)
        for queue in resumed:
            consumer.call_soon(consumer.add_task_queue, queue)
        self._say("takes no more messages from %s, which is paused", newly)
        self._say("takes messages from %s again", resumed)

    @staticmethod
    def _say(text: str, queues: Collection[str]) -> None:
        if queues:
            logger.info(f"this worker {text}", ", ".join(sorted(queues)), extra={"action": "queues_paused"})

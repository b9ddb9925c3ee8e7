"""Hands dispatches from the transport straight to the asyncio pool, bypassing kombu's and Celery's consumers.

On its way through kombu and Celery a message is decoded, checked, logged, reported, scheduled and counted. For a
dispatch of umbel's these layers have nothing to do unless something observes or delays messages. If nothing does, the
dispatch's three ids go straight to the pool, with a request that builds everything else only when Celery reads it
(`pool/lazy_request.py`). Remote control, shutdown, prefetch and acknowledgements treat it like any other request.

If anything about the worker, the step or the message is unusual, the message takes the ordinary way.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any

from celery import signals
from celery.app import trace
from celery.utils.time import rate
from celery.worker import state as worker_state
from celery.worker import strategy

from ...orchestration.connection.settings import Settings
from ...tasks.attempt.step_task import StepTask
from ...tasks.messages.template import HEADER, message_fault
from ...tasks.workflow.registry import Registry
from ..pool.lazy_request import DirectRequest, sends_task_events
from ..pool.taskpool import AsyncPool
from ..transport.channel import Channel
from ..transport.faults import may_be_nested
from ..transport.received import ReceivedMessage
from .paused_workflows import PausedWorkflows

logger = logging.getLogger("umbel.worker")

#: Signals that Celery sends for each task, with umbel's own number of receivers: the transport has one on the first.
_SIGNALS = {
    "task_received": (signals.task_received, 1),
    "task_prerun": (signals.task_prerun, 0),
    "task_postrun": (signals.task_postrun, 0),
    "task_success": (signals.task_success, 0),
    "task_failure": (signals.task_failure, 0),
    "task_retry": (signals.task_retry, 0),
}

#: Headers that no dispatch of umbel's has, and that Celery would act on.
_UNUSUAL_HEADERS = ("eta", "expires", "shadow", "stamped_headers", "group", "compression")

#: Bytes of a message up to which nothing in it can be nested so deeply that a later use of it fails.
_SHALLOW_BYTES = 2000


class DirectDelivery:
    """Direct delivery in one worker."""

    def __init__(self, settings: Settings, registry: Registry, paused: PausedWorkflows) -> None:
        """Args:
        settings: The settings of the deployment.
        registry: The workflows that the worker serves.
        paused: The paused workflows; their messages take the ordinary way, which holds the work.
        """
        self._settings, self._registry, self._paused = settings, registry, paused
        self._logged: list[str] = []
        self._consumer: Any = None
        self._plain_tasks: dict[str, bool] = {}

    def attach(self, consumer: Any) -> None:
        """Set the worker's consumer; called after each connect, which makes a new channel."""
        self._consumer = consumer
        channel = consumer.task_consumer.channel
        if isinstance(channel, Channel) and isinstance(consumer.pool, AsyncPool):
            channel.take_directly = self.take
            channel.connection.before_broadcast = consumer.pool.report

    # -- what switches it off ------------------------------------------------------------------------------------------

    def reasons(self) -> Iterator[str]:
        """Why messages take the ordinary way through Celery; empty if they are delivered directly.

        Evaluated for each message, so that what is enabled at run time takes effect at once.
        """
        consumer = self._consumer
        if not self._settings.direct_delivery:
            yield "UMBEL_DIRECT_DELIVERY is off"
        if not isinstance(consumer.pool, AsyncPool):
            yield "the pool is not umbel's asyncio pool"
        elif consumer.hub is None:
            yield "the worker has no event loop of Celery's"
        if consumer.task_consumer is not None and not isinstance(consumer.task_consumer.channel, Channel):
            yield "the broker is not reached through umbel's Redis transport"
        if sends_task_events(consumer.event_dispatcher):
            yield "task events are enabled"
        for name, (signal, own) in _SIGNALS.items():
            if len(signal.receivers) > own:
                yield f"Celery's signal {name} has receivers"
        if strategy.logger.isEnabledFor(logging.DEBUG) or trace.logger.isEnabledFor(logging.DEBUG):
            yield "the log level is DEBUG"

    def reasons_of(self, task: Any) -> Iterator[str]:
        """The same for one step."""
        if rate(task.rate_limit):
            yield f"{task.name} has a rate limit"
        if task.time_limit or task.soft_time_limit:
            yield f"{task.name} has a time limit of Celery's"
        if not self._is_plain(task):
            yield f"{task.name} has hooks or options of its own in the Celery app"

    def all_reasons(self) -> list[str]:
        """Why direct delivery is off for this worker, or else for some of its steps; logs changes.

        May be called from any thread.
        """
        consumer = self._consumer
        if consumer is None:
            return []
        found = list(self.reasons())
        if not found:
            steps = {step.task for registered in self._registry for step in registered.plan.steps}
            tasks = [consumer.app.tasks[name] for name in sorted(steps) if name in consumer.app.tasks]
            found = [reason for task in tasks for reason in self.reasons_of(task)]
        if found != self._logged and isinstance(consumer.pool, AsyncPool):
            logger.info(
                "Direct delivery is %s.",
                f"off, which takes more processor time per message: {'; '.join(found)}" if found else "on",
                extra={"action": "direct_delivery"},
            )
        self._logged = found
        return found

    def _is_plain(self, task: Any) -> bool:
        found = self._plain_tasks.get(task.name)
        if found is None:
            tracer = self._consumer.pool.tracer_of(task.name, task)
            is_step = isinstance(task, StepTask) and task.acks_late and not task.track_started
            found = self._plain_tasks[task.name] = is_step and tracer is not None and tracer.is_plain
        return found

    # -- a message: the hub's thread -----------------------------------------------------------------------------------

    def take(self, envelope: ReceivedMessage, channel: Channel) -> bool:
        """Deliver a message directly; False, without any effect, if it has to take the ordinary way."""
        headers = envelope.get("headers")
        if not isinstance(headers, dict) or HEADER not in headers or self._paused.covering(headers[HEADER]):
            return False
        consumer = self._consumer
        if consumer.task_consumer is None or consumer.task_consumer.channel is not channel:
            return False  # it arrived over a connection that is being closed
        if envelope.queue not in channel.connection._callbacks:
            return False
        if _is_unsettled(consumer) or any(self.reasons()):
            return False
        name = headers.get("task")
        task = consumer.app.tasks.get(name) if isinstance(name, str) else None
        if task is None or task.name not in consumer.strategies or any(self.reasons_of(task)):
            return False
        body = _body_of(envelope, headers, channel)
        if body is None:
            return False
        consumer.pool.report()
        request = DirectRequest(envelope, body, task, channel, consumer)
        channel.qos.append_direct(request, request.delivery_tag)
        worker_state.task_reserved(request)
        for callback in tuple(consumer.on_task_message):
            callback(request)
        consumer.on_task_request(request)
        return True


def _is_unsettled(consumer: Any) -> bool:
    """Whether the worker is stopping, or is still restoring its prefetch count after a reconnect."""
    if worker_state.should_stop is not None or worker_state.should_terminate is not None:
        return True
    return consumer.restart_count > 0 and not consumer._maximum_prefetch_restored


def _body_of(envelope: ReceivedMessage, headers: dict[str, Any], channel: Channel) -> list[Any] | None:
    """A message's body if it is an ordinary dispatch of umbel's that needs no handling by Celery; else None."""
    task_id, properties = headers.get("id"), envelope.get("properties")
    if not isinstance(task_id, str) or not isinstance(properties, dict) or task_id in worker_state.revoked:
        return None
    if any(headers.get(name) is not None for name in _UNUSUAL_HEADERS) or headers.get("ignore_result") is not True:
        return None
    if headers.get("timelimit") not in (None, [None, None]) or headers.get("stamps") not in (None, {}):
        return None
    if headers.get("retries") not in (None, 0) or not isinstance(headers[HEADER], str):
        return None
    if not isinstance(properties.get("priority"), int | None) or not isinstance(properties.get("delivery_info"), dict):
        return None
    encoding = envelope.get("content-type"), envelope.get("content-encoding"), properties.get("body_encoding")
    raw = envelope.raw or b""
    if len(raw) > _SHALLOW_BYTES and may_be_nested(raw):
        return None
    tag = properties.get("delivery_tag")
    if encoding != ("application/json", "utf-8", "base64") or not isinstance(tag, str) or not tag.isascii():
        return None
    try:
        body = json.loads(base64.b64decode(envelope["body"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if message_fault(body) is not None or not isinstance(body[2], dict) or any(body[2].values()):
        return None
    return list(body)

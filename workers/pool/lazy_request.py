"""Celery's views of a message and of a running task, built only when something reads them.

For each message Celery makes a `Request`, which the worker's main process keeps, and a `Context`, which is the task's
`self.request`. Normally nothing reads more of them than the id. Here the rest is filled in on first access: by remote
control, by the handling of a failure, or by the step itself.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu is a typed package, but not all of it is annotated.

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from weakref import ref

from celery.app.task import Context

from ...tasks.attempt.step_task import StepRequest

#: The set that `Context._get_custom_headers` (celery/app/task.py:144) computes again for every message.
_KNOWN_HEADERS = frozenset({*Context.__dict__, "lang", "task", "argsrepr", "kwargsrepr", "compression"})


def sends_task_events(eventer: Any) -> bool:
    """Whether a worker's event dispatcher sends task events; without -E it sends only worker events."""
    if eventer is None or not eventer.enabled:
        return False
    return not eventer.groups or "task" in eventer.groups


#: Held while a direct request is filled in.
_filling = threading.RLock()


class TaskRequest(Context):  # type: ignore[misc]  # Celery is untyped
    """Celery's `self.request`, created in a third of the time."""

    def _get_custom_headers(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        return {name: value for name, value in self.__dict__.items() if name not in _KNOWN_HEADERS} or None


class LazyTaskRequest(TaskRequest):
    """A `self.request` that becomes an ordinary one when it is first read; `type()` says whether that has happened."""

    def __init__(self, fields: Callable[[], Mapping[str, Any]]) -> None:
        """Args:
        fields: Returns the fields of the request. Called once, or once per thread if several read it concurrently.
        """
        object.__setattr__(self, "_fields", fields)

    def __getattribute__(self, name: str) -> Any:
        state = object.__getattribute__(self, "__dict__")
        fields = state.get("_fields")
        if fields is not None:
            state.update(TaskRequest(fields()).__dict__)
            object.__setattr__(self, "__class__", TaskRequest)
            state.pop("_fields", None)
        return getattr(self, name)


class UnackedMessages(Protocol):
    """Where the message of a request is acknowledged."""

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message, or put it back."""


class DirectRequest(StepRequest):
    """Celery's request for a dispatch that the transport hands to the pool directly.

    Its users see an ordinary request. What is derived from the message is built on first access.
    """

    ignore_result = True
    acknowledged: bool = False

    def __init__(self, envelope: dict[str, Any], body: list[Any], task: Any, channel: Any, consumer: Any) -> None:
        """Make it.

        Args:
            envelope: The message as it arrived.
            body: Its decoded body.
            task: The step's task.
            channel: Where it arrived.
            consumer: Celery's consumer.
        """
        self._is_filled = False
        self._raw, self._channel = envelope, channel
        self._unacked: UnackedMessages = channel.qos
        self.delivery_tag = envelope["properties"]["delivery_tag"]
        self._decoded_body = body
        self.id = envelope["headers"]["id"]
        self.name = self._type = task.name
        self._task, self._app = task, consumer.app
        self._hostname, self._eventer = consumer.hostname, consumer.event_dispatcher
        self._connection_errors = consumer.connection_errors

    def __getattr__(self, name: str) -> Any:
        with _filling:  # remote control may read it while the step does, in another thread
            if not self.__dict__.get("_is_filled", True):
                self._fill()
            return object.__getattribute__(self, name)

    def _fill(self) -> None:
        self._is_filled = True
        message = self._channel.Message(self._raw, channel=self._channel)
        super().__init__(
            message,
            app=self._app,
            hostname=self._hostname,
            eventer=self._eventer,
            task=self._task,
            connection_errors=self._connection_errors,
            body=message.body,
            headers=message.headers,
            utc=self._app.uses_utc_timezone(),
        )

    @property
    def _payload(self) -> Any:
        return self._decoded_body

    def task_request(self, protected: int) -> LazyTaskRequest:
        """The task's `self.request`."""

        def fields() -> dict[str, Any]:
            return {**self.request_dict, "called_directly": False, "_protected": protected, **self._decoded_body[2]}

        return LazyTaskRequest(fields)

    def execute_using_pool(self, pool: Any, **_: Any) -> Any:
        """Hand the dispatch to umbel's asyncio pool."""
        job = pool.on_apply(
            None,
            (self.name, self.id),
            {},
            callback=self.on_success,
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            error_callback=self.on_failure,
        )
        self._apply_result = ref(job)
        return job

    def acknowledge(self) -> None:
        """Acknowledge the message, once."""
        if not self.acknowledged:
            self._unacked.ack(self.delivery_tag)
            self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:
        """Drop the message or put it back, unless it is acknowledged."""
        if not self.acknowledged:
            self._unacked.reject(self.delivery_tag, requeue)
            self.acknowledged = True
            self.send_event("task-rejected", requeue=requeue)

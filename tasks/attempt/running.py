"""Attempts in progress: how to find one and how to stop it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...orchestration.connection.stopping import is_stopped
from ...orchestration.model.work_item import Held, Work
from ...orchestration.store.replies import Refusal

#: The cancellation message with which the asyncio pool cancels a task that has reached Celery's hard time limit.
TIME_LIMIT = "hard time limit"

#: Seconds between looks whether the loop of a run's caller has been closed.
LOOK_SECONDS = 1.0

#: Why an attempt was abandoned.
CLOSED = "the event loop it was executed on is being closed"

_RUN_ENDED = "its run has ended"


class AttemptFailed(Exception):
    """An attempt has failed and the failure is recorded. Raised only to inform Celery, so that its monitors show it.

    It has the traceback of the step's error, and its `repr` names that error's class, by which monitors count failures.

    Attributes:
        retry_delay_seconds: When the next attempt is due; None if the failure is final.
    """

    def __init__(self, text: str, retry_delay_seconds: float | None = None, error: BaseException | None = None) -> None:
        super().__init__(text)
        self.retry_delay_seconds = retry_delay_seconds
        self._shown_as = type(error or self).__name__
        self.__traceback__ = error.__traceback__ if error else None

    def __repr__(self) -> str:
        return f"{self._shown_as}({str(self)!r})"


class Abandoned(BaseException):
    """The event loop on which a step runs is being closed, for example because its worker stops.

    This is not a failure of the step: the work is released and executed elsewhere.
    """


class StepExit(RuntimeError):
    """A step raised something that is not an `Exception` (such as `sys.exit()`), or was cancelled by its own code.

    It ends only the attempt, not the worker.
    """


class DeliveryResult(str):
    """Result text of one delivery, for logs.

    Attributes:
        seconds: How long the step took, if the delivery took longer because the worker continued with other steps.
    """

    __slots__ = ("seconds",)
    seconds: float | None

    @classmethod
    def of(cls, text: str, seconds: float | None = None) -> DeliveryResult:
        """A result with this text and duration."""
        result = cls(text)
        result.seconds = seconds
        return result


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an attempt.

    Attributes:
        text: For logs.
        failed: The failure that is reported to Celery, if any.
        following: Work that its commit claimed for this process, if any.
    """

    text: str
    failed: AttemptFailed | None = None
    following: Work | None = None


class Running:
    """An attempt in progress. It may be cancelled from any thread."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.reason: str | None = None
        #: The context variables of user code when it raised.
        self.context: contextvars.Context | None = None
        self._cancel: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def on_cancel(self, cancel: Callable[[], None] | None) -> None:
        """Set what to call when the attempt is cancelled; it is called at once if the attempt is already cancelled."""
        with self._lock:
            self._cancel = cancel
            fire = self.reason is not None and cancel is not None
        if fire and cancel is not None:
            cancel()

    def cancel(self, reason: str) -> None:
        """Stop the attempt. An `async def` step is cancelled; a plain step keeps running but cannot commit."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason, cancel = reason, self._cancel
        if cancel is not None:
            cancel()

    def refused(self, refusal: Refusal) -> None:
        """Stop the attempt because Redis refused something it sent: the attempt is obsolete."""
        self.cancel(f"Redis says {refusal}")


class Closing:
    """Notices that a loop was closed before it had run a task to its end; asyncio reports that to nobody.

    `asyncio.run()` cancels the tasks of its loop once, and then closes the loop. Tasks created in between never end.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[Any], future: concurrent.futures.Future[Any]
    ) -> None:
        """Args:
        loop: The loop that may be closed.
        outcome: What waits here for the task there; gets an `Abandoned`.
        future: Set by the task there, at the latest before its loop is closed.
        """
        self._loop, self._outcome, self._future = loop, outcome, future
        self._later = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def ignore(self) -> None:
        """Look no more."""
        self._later.cancel()

    def _look(self) -> None:
        if not self._loop.is_closed():
            self._later = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        elif not self._future.done() and not self._outcome.done():
            self._outcome.set_exception(Abandoned(CLOSED))


class RunningAttempts:
    """The attempts of one process. Attempts add and remove themselves; other threads search.

    An attempt is added before its claim is sent, because the end of its run may be announced before the claim is
    answered.
    """

    def __init__(self) -> None:
        #: How many attempts have begun.
        self.begun = 0
        self._by_run: dict[str, dict[str, Running]] = {}
        self._lock = threading.Lock()

    def enter(self, held: Held, *, after: Running | None = None) -> Running:
        """Add an attempt unless it is already there.

        Args:
            held: Its claim.
            after: The attempt whose commit has claimed it, still present: if that one was stopped because the run
                ended, this one is stopped too.
        """
        with self._lock:
            attempts = self._by_run.setdefault(held.run_id, {})
            running = attempts.get(held.claim_id)
            if running is None:
                running = attempts[held.claim_id] = Running(held)
            elif after is None:
                self.begun += 1  # added a second time: the claim was answered
        if after is not None and after.reason == _RUN_ENDED:
            running.cancel(_RUN_ENDED)
        return running

    def leave(self, held: Held) -> None:
        """Remove an attempt that has ended or was never claimed."""
        with self._lock:
            attempts = self._by_run.get(held.run_id, {})
            attempts.pop(held.claim_id, None)
            if not attempts:
                self._by_run.pop(held.run_id, None)

    def cancel(self, held: Held, reason: str) -> None:
        """Stop one attempt."""
        with self._lock:
            running = self._by_run.get(held.run_id, {}).get(held.claim_id)
        if running is not None:
            running.cancel(reason)

    def run_ended(self, run_id: str) -> None:
        """Stop all attempts of a run."""
        with self._lock:
            attempts = list(self._by_run.get(run_id, {}).values())
        for running in attempts:
            running.cancel(_RUN_ENDED)


def is_ending(error: BaseException) -> bool:
    """Whether an error is a cancellation because the worker is stopping, not by the step or a time limit."""
    task = asyncio.current_task()
    if not isinstance(error, asyncio.CancelledError) or task is None or not is_stopped(task):
        return False
    return error.args != (TIME_LIMIT,)


def forget_cancellations() -> None:
    """Clear the current task's pending cancellations: they concerned what it executed, not what it does next."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def reached_time_limit(error: asyncio.CancelledError) -> bool:
    """Whether Celery's hard time limit cancelled the current task; if so, undo that, so the task can record it."""
    task = asyncio.current_task()
    if task is None or not task.cancelling() or error.args != (TIME_LIMIT,):
        return False
    task.uncancel()
    return True

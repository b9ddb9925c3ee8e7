"""Attempts in progress: how each is stopped, and how it is found by what has to stop it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ...orchestration.connection.stopping import is_stopped
from ...orchestration.model.work_item import Held, Work
from ...orchestration.store.replies import Refusal

#: With this word the asyncio pool cancels what has reached Celery's hard time limit.
TIME_LIMIT = "hard time limit"

_RUN_ENDED = "its run has ended"


class AttemptFailed(Exception):
    """An attempt has failed, and that is recorded: raised only so that Celery, whose monitors show it, knows.

    It has the traceback of the step's error, and in its `repr` that one's class, which monitors count failures by.

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
    """The event loop that a step runs on is being closed, or its worker ends.

    No failure of the step: the work is given back and executed elsewhere.
    """


class StepExit(RuntimeError):
    """A step raised what is no `Exception` and would end more than it (`sys.exit()`); it ends only the attempt."""


class DeliveryResult(str):
    """Result text of one delivery, for logs.

    Attributes:
        seconds: How long the step took, where the delivery took longer: its worker went on with other steps.
    """

    __slots__ = ("seconds",)
    seconds: float | None

    @classmethod
    def of(cls, text: str, seconds: float | None = None) -> DeliveryResult:
        """The text, with how long it took."""
        result = cls(text)
        result.seconds = seconds
        return result


@dataclass(frozen=True, slots=True)
class Ended:
    """What an attempt came to.

    Attributes:
        text: For logs.
        failed: What Celery gets if it failed.
        following: Work that its commit gave to this process.
    """

    text: str
    failed: AttemptFailed | None = None
    following: Work | None = None


class Running:
    """An attempt in progress. May be cancelled from any thread."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.reason: str | None = None
        #: What user code had set in context variables when it raised.
        self.context: contextvars.Context | None = None
        self._cancel: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def on_cancel(self, cancel: Callable[[], None] | None) -> None:
        """What to call when the attempt is cancelled; called at once when it is already."""
        with self._lock:
            self._cancel = cancel
            fire = self.reason is not None and cancel is not None
        if fire and cancel is not None:
            cancel()

    def cancel(self, reason: str) -> None:
        """Stop the attempt. An `async def` step is cancelled; a plain one runs on, but cannot commit."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason, cancel = reason, self._cancel
        if cancel is not None:
            cancel()

    def refused(self, refusal: Refusal) -> None:
        """Stop the attempt: it is obsolete, as Redis has said of something that it sent."""
        self.cancel(f"Redis says {refusal}")


class RunningAttempts:
    """The attempts of one process. Entered and left by the attempts, searched from other threads.

    An attempt is entered before its claim is sent: the end of its run may be heard before the claim is answered.
    """

    def __init__(self) -> None:
        #: How many attempts have begun.
        self.begun = 0
        self._by_run: dict[str, dict[str, Running]] = {}
        self._lock = threading.Lock()

    def enter(self, held: Held, *, after: Running | None = None) -> Running:
        """Enter an attempt, unless it is entered already.

        Args:
            held: Its claim.
            after: The attempt whose commit has claimed it, still entered: what stopped that one stops this one too.
        """
        with self._lock:
            attempts = self._by_run.setdefault(held.run_id, {})
            running = attempts.get(held.claim_id)
            if running is None:
                running = attempts[held.claim_id] = Running(held)
            elif after is None:
                self.begun += 1  # entered a second time: the claim was answered
        if after is not None and after.reason == _RUN_ENDED:
            running.cancel(_RUN_ENDED)
        return running

    def leave(self, held: Held) -> None:
        """The attempt has ended, or was never claimed."""
        with self._lock:
            attempts = self._by_run.get(held.run_id, {})
            attempts.pop(held.claim_id, None)
            if not attempts:
                self._by_run.pop(held.run_id, None)

    def cancel(self, held: Held, reason: str) -> None:
        """Stop one."""
        with self._lock:
            running = self._by_run.get(held.run_id, {}).get(held.claim_id)
        if running is not None:
            running.cancel(reason)

    def run_ended(self, run_id: str) -> None:
        """Stop all of a run."""
        with self._lock:
            attempts = list(self._by_run.get(run_id, {}).values())
        for running in attempts:
            running.cancel(_RUN_ENDED)


def is_ending(error: BaseException) -> bool:
    """Whether a cancellation is the worker's, which ends: not the step's own, nor that of a time limit."""
    task = asyncio.current_task()
    if not isinstance(error, asyncio.CancelledError) or task is None or not is_stopped(task):
        return False
    return error.args != (TIME_LIMIT,)


def forget_cancellations() -> None:
    """What the current task has executed was cancelled, and not what the task does next."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def reached_time_limit(error: asyncio.CancelledError) -> bool:
    """Whether Celery's hard time limit cancelled the current task, which then goes on to record that."""
    task = asyncio.current_task()
    if task is None or not task.cancelling() or error.args != (TIME_LIMIT,):
        return False
    task.uncancel()
    return True

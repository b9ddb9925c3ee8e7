"""An attempt in progress, what it came to, and how to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ...orchestration.engine.leases import Held


class AttemptFailed(Exception):
    """An attempt has failed, and that is recorded: only Celery is still to be told, whose monitors show it.

    Attributes:
        retry_delay_seconds: When the next attempt is due; None if the failure is final.
    """

    def __init__(self, text: str, retry_delay_seconds: float | None = None) -> None:
        super().__init__(text)
        self.retry_delay_seconds = retry_delay_seconds


class Running:
    """An attempt in progress, and how to stop it from another thread."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.reason: str | None = None
        self.error: BaseException | None = None
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
        """Tell the attempt to stop. An `async def` step is cancelled; a plain one runs on, but cannot commit."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason, cancel = reason, self._cancel
        if cancel is not None:
            cancel()


#: With this word the asyncio pool cancels what has reached Celery's hard time limit.
TIME_LIMIT = "hard time limit"


class Abandoned(BaseException):
    """Whoever drives an attempt stops doing so: the worker ends, or the event loop that the step runs on is closed.

    No failure of the step: the work is given back and executed elsewhere.
    """


class DeliveryResult(str):
    """What became of a dispatch, in words for logs.

    Attributes:
        seconds: How long that took, where it differs from how long the caller was kept: it went on with other work.
    """

    __slots__ = ("seconds",)
    seconds: float | None

    @classmethod
    def of(cls, text: str, seconds: float | None = None) -> DeliveryResult:
        """The text, with how long it took."""
        told = cls(text)
        told.seconds = seconds
        return told

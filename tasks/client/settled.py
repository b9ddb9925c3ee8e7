"""Methods that block without an event loop and are awaited on one, and the values they return."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Self, TypeVar, cast

from ...orchestration.connection.portal import Portal
from ...orchestration.model.errors import WorkflowRuntimeError

T = TypeVar("T")


class Settled(Awaitable[Any]):
    """A value that may also be awaited."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return bool(self.value)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.value
        yield


class SettledList(list[Any]):
    """A list that may also be awaited."""

    def __await__(self) -> Generator[Any, None, Self]:
        return self
        yield


class AwaitedOrBlocking:
    """Base of classes whose methods block without an event loop and are awaited on one."""

    _portal: Portal

    def _begun(self, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """On an event loop start at once, whether or not the result is awaited; elsewhere block."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            value: Any = self._portal.call(coroutine)
            return cast("Awaitable[T]", value if isinstance(value, SettledList) else Settled(value))
        # In a thread of the loop's default executor, for which `asyncio.run` waits: the call is not lost if unawaited.
        return loop.run_in_executor(None, self._portal.call, coroutine)

    def _refuse_blocking(self, method: str, instead: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise WorkflowRuntimeError(
            f"handler.{method}() blocks, and would stop the event loop that this code runs on. Use `{instead}`."
        )

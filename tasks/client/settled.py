"""Values that may be awaited and need not be: what blocking faces return where the others return a coroutine."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, Self


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

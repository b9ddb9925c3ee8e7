"""Awaiting a coroutine in a context of its own, without a task of its own.

A task costs two turns of the event loop. Several steps that follow each other in one task must not see each other's
context variables all the same.
"""

from __future__ import annotations

import contextvars
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Isolated(Generic[T]):
    """`await Isolated(coroutine)`: what it sets in context variables stays inside."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        """Args:
        coroutine: Not begun yet.
        """
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine = self._coroutine
        run = contextvars.copy_context().run
        resume, value = coroutine.send, None
        while True:
            try:
                yielded = run(resume, value)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                resume, value = coroutine.send, (yield yielded)
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as error:
                resume, value = coroutine.throw, error

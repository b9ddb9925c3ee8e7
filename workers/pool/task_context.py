"""`self.request` and `current_task` for many tasks in one thread.

Celery keeps both in stacks, one per thread. Here there is one per context (`contextvars`), so each coroutine sees its
own, as do the asyncio tasks that it creates and the functions that it passes to `asyncio.to_thread`. Code outside of
such a context still has one stack per thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from celery._state import _task_stack
from celery.utils.threads import _LocalStack, get_ident

from ...orchestration.model.errors import ConfigurationError

T = TypeVar("T")

_mark: ContextVar[int | None] = ContextVar("umbel_task_context", default=None)
_marks = itertools.count(-1, -1)  # no thread id is negative


def _ident() -> Any:
    mark = _mark.get()
    return get_ident() if mark is None else mark


def own_context() -> Context:
    """A new context with request stacks of its own; it inherits no context variables from the caller."""
    context = Context()
    context.run(_mark.set, next(_marks))
    return context


def follow_contexts(stack: Any) -> None:
    """Change one of Celery's stacks (celery/utils/threads.py:210) from one per thread to one per context.

    Raises:
        ConfigurationError: Celery is configured to use another kind of stack.
    """
    if not isinstance(stack, _LocalStack):
        raise ConfigurationError(
            f"The asyncio pool needs Celery's request stacks to be {_LocalStack.__qualname__}; they are "
            f"{type(stack).__qualname__}. Unset the environment variable USE_FAST_LOCALS."
        )
    stack.__ident_func__ = _ident


def in_context_of(task: Any, function: Callable[[], T]) -> T:
    """Call a function that runs partly in other threads and loops, so that they too see the task as current.

    For Celery's own pools, whose stacks belong to the thread. The caller's context variables are not changed.
    """
    context = copy_context()
    stacks = (_task_stack, task), (task.request_stack, task.request_stack.top)
    for stack, _ in stacks:
        if not isinstance(stack, _LocalStack):  # USE_FAST_LOCALS: such stacks are per thread only
            return context.run(function)
        follow_contexts(stack)

    def call() -> T:
        _mark.set(next(_marks))
        for stack, top in stacks:
            stack.push(top)
        try:
            return function()
        finally:
            for stack, _ in stacks:
                stack.pop()

    return context.run(call)

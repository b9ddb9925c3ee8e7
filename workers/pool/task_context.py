"""`self.request` and `current_task` for many tasks in one thread.

Celery keeps both in one stack per thread. Here there is one per context (`contextvars`), so each coroutine sees its
own, as do the tasks it creates and what it passes to `asyncio.to_thread`; code outside of any such context still has
one stack per thread.
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
    """A context with request stacks of its own, in which nothing else is set: not what the thread that asks has set."""
    context = Context()
    context.run(_mark.set, next(_marks))
    return context


def follow_contexts(stack: Any) -> None:
    """Make one of Celery's stacks (celery/utils/threads.py:210) one per context.

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
    """Call a function of which other threads and loops execute a part, so that they too see the task as current.

    For the pools of Celery's own, whose stacks belong to the thread. Context variables are as before after the call.
    """
    context = copy_context()
    stacks = (_task_stack, task), (task.request_stack, task.request_stack.top)
    for stack, _ in stacks:
        if not isinstance(stack, _LocalStack):  # USE_FAST_LOCALS: they know threads only
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

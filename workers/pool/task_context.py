"""Which request `self.request` and `current_task` mean when many tasks take turns in one thread.

Celery keeps both in stacks that are told apart by thread. Here they are told apart by context (`contextvars`), so each
coroutine sees its own, as do the tasks it creates and what it hands to `asyncio.to_thread`; code outside of any such
context goes on being told apart by thread.
"""

from __future__ import annotations

import itertools
from contextvars import ContextVar
from typing import Any

from celery.utils.threads import _LocalStack, get_ident

from ...orchestration.model.errors import ConfigurationError

_mark: ContextVar[int | None] = ContextVar("umbel_task_context", default=None)
_marks = itertools.count(-1, -1)  # no thread id is negative


def _ident() -> Any:
    mark = _mark.get()
    return get_ident() if mark is None else mark


def begin_context() -> None:
    """Let what runs in this context from now on have request stacks of its own."""
    _mark.set(next(_marks))


def follow_contexts(stack: Any) -> None:
    """Let one of Celery's stacks (celery/utils/threads.py:210) be told apart by context.

    Raises:
        ConfigurationError: Celery was told to use another kind of stack.
    """
    if not isinstance(stack, _LocalStack):
        raise ConfigurationError(
            f"The asyncio pool needs Celery's request stacks to be {_LocalStack.__qualname__}; they are "
            f"{type(stack).__qualname__}. Unset the environment variable USE_FAST_LOCALS."
        )
    stack.__ident_func__ = _ident

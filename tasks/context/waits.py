"""The names of a step's waits. An answer is kept under the name of its wait, and each execution must find its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from weakref import WeakSet, ref

from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import WorkflowRuntimeError
from ...orchestration.model.work_item import Awaiting, Suspended, Work, derive_id


class Waits(BaseException):
    """Unwinds a step that waits. Not an Exception, so that a step's own `except Exception` does not swallow it.

    Attributes:
        outcome: What the attempt comes to.
    """

    def __init__(self, outcome: Suspended | Awaiting) -> None:
        super().__init__(f"waits: {outcome}")
        self.outcome = outcome


def unwound_by(group: BaseExceptionGroup[Any]) -> BaseException:
    """What a step failed with that was unwound by an `asyncio.TaskGroup`: if it only waits, the first of its waits.

    The others begin when the step is executed again.
    """
    waits, rest = group.split(Waits)
    if rest is not None:
        return rest
    first: BaseException | None = waits
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert first is not None  # a group is never empty
    return first


class WaitNames:
    """Names the waits of one execution that have no `waiter_id`.

    Equal waits are counted in the order in which the step begins them. Tasks that wait at the same time begin in any
    order, so there the question is part of the name; and where even that is the same, the waits are refused.
    """

    def __init__(self, work: Work) -> None:
        """Args:
        work: What is executed.
        """
        self._work = work
        self._begun: dict[str, int] = {}
        self._beside: dict[str, tuple[ref[asyncio.Task[Any]], WeakSet[asyncio.Task[Any]]]] = {}
        #: The task that the step itself is executed in; weakly, since its error refers to all of this.
        self.main: Callable[[], asyncio.Task[Any] | None] = lambda: None

    def of(self, event: str, requirements: dict[str, Any], question: Envelope | None) -> str:
        """The name of the next wait for `event`.

        Raises:
            WorkflowRuntimeError: Another task waits for the same with the same question.
        """
        stem = f"waiter_{event}_{json.dumps(requirements, sort_keys=True, default=str)}"
        name = self._next(stem)
        task = asyncio.current_task()
        if (
            task is None or task is self.main() or name in self._work.answers
        ):  # the latter was asked by an older release
            return name
        stem = f"{stem}_{derive_id(question.type, question.payload)}" if question is not None else f"{stem}_"
        self._refuse_twin(stem, event, task)
        return self._next(stem)

    def _next(self, stem: str) -> str:
        number = self._begun.get(stem, 0)
        self._begun[stem] = number + 1
        return f"{stem}_{number}"

    def _refuse_twin(self, stem: str, event: str, task: asyncio.Task[Any]) -> None:
        first, beside = self._beside.setdefault(stem, (ref(task), WeakSet(asyncio.all_tasks())))
        if task is first():
            return
        if task not in beside:  # it began later: the waits are in order
            self._beside[stem] = (ref(task), WeakSet(asyncio.all_tasks()))
            return
        kind = event.rpartition(".")[2]
        raise WorkflowRuntimeError(
            f"Several tasks of step {self._work.step!r} of run {self._work.run_id!r} wait for {kind} at the same time "
            "with the same question and requirements, so it cannot be known which answer is whose. Give each wait a "
            f"name of its own: ctx.wait_for_event({kind}, waiter_id=…), the same whenever the step is executed."
        )

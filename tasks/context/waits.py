"""The names of a step's waits. An answer is stored under the name of its wait, where each execution must find it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from weakref import WeakSet, ref

from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import PayloadTooLarge, UnserializableValue, WorkflowRuntimeError
from ...orchestration.model.tagged_json import NotJson
from ...orchestration.model.work_item import Awaiting, Suspended, Work, derive_id
from ..events.codec import EventMismatch, EventRegistry, decode_event, unreadable
from ..events.event import Event, fields_to_json
from ..events.run_events import UnreadableEvent
from ..values.json_values import dump_json

logger = logging.getLogger("umbel.steps")

#: A step that has received this many answers that do not match their class fails: it decodes all of them each time.
MOST_UNREADABLE = 100

#: Maximum size of a wait's requirements, which are read again for each event that may meet them.
_REQUIREMENTS_BYTES = 64 * 1024

#: Maximum length of the reason that is published for each of them.
_REASON_CHARACTERS = 2000


class Waits(BaseException):
    """Unwinds a step that waits. Not an Exception, so that a step's own `except Exception` does not swallow it.

    Attributes:
        outcome: The outcome of the attempt.
    """

    def __init__(self, outcome: Suspended | Awaiting) -> None:
        super().__init__(f"waits: {outcome}")
        self.outcome = outcome


class RaisedWaits:
    """The waits that one execution of a step has raised, and what becomes of those that do not unwind it.

    `asyncio.gather(…, return_exceptions=True)` makes values of them, and `except BaseException` swallows them. A step
    that then returns has not got what it waits for, so it waits nevertheless. A task that the step has cancelled, or
    never looks at again, is another matter: the step goes on without it.
    """

    def __init__(self, work: Work) -> None:
        """Args:
        work: What is executed.
        """
        self._work = work
        self._raised: list[tuple[Suspended | Awaiting, asyncio.Task[Any] | None]] | None = []

    def new(self, outcome: Suspended | Awaiting, main: asyncio.Task[Any] | None) -> Waits:
        """A wait to be raised here and now.

        Args:
            outcome: The outcome of the attempt if it unwinds the step.
            main: The task in which the step itself is executed.
        """
        if self._raised is not None:
            task = _running_task()
            self._raised.append((outcome, None if task is main else task))
        return Waits(outcome)

    def is_own(self, waits: Waits) -> bool:
        """Whether this execution has raised it, not another one whose context the step has kept."""
        return any(outcome is waits.outcome for outcome, _ in self._raised or ())

    def swallowed(self) -> Suspended | Awaiting | None:
        """The first wait that the step has seen although it did not unwind it. The step has just ended."""
        if not self._raised:
            return None
        return next((outcome for outcome, task in self._raised if task is None or _is_seen(task)), None)

    def warn_of_left(self) -> None:
        """Log the waits in tasks that the step, which has just returned, has neither cancelled nor looked at."""
        for outcome, task in self._raised or ():
            if task is not None and not _is_seen(task) and not (task.done() and task.cancelled()):
                self._warn_of(outcome)
                if task.done():
                    task.exception()  # asyncio need not complain as well

    def close(self) -> None:
        """The execution has ended. Tasks refer to what they raised, and that to the execution."""
        self._raised = None

    def _warn_of(self, outcome: Suspended | Awaiting) -> None:
        logger.warning(
            "step %r of run %s returned without looking at a task that waits for %s, so the wait has not begun; await "
            "the task, or cancel it before it waits",
            self._work.step,
            self._work.run_id,
            outcome.waiter.event_type.rpartition(".")[2] if isinstance(outcome, Suspended) else "child runs",
            extra={"action": "wait_not_begun", "run_id": self._work.run_id, "step": self._work.step},
        )


def _running_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # driven by hand, without an event loop
        return None


def _is_seen(task: asyncio.Task[Any]) -> bool:
    """Whether the outcome of a task has been looked at: by `await`, `gather`, `result()` or `exception()`."""
    return task.done() and not task.cancelled() and not getattr(task, "_log_traceback", False)


def comes_from_wait(error: Exception) -> bool:
    """Whether a step failed because it took a wait for a result: `'Waits' object has no attribute 'text'`."""
    return Waits.__name__ in str(error)


def unwound_by(group: BaseExceptionGroup[Any]) -> BaseException:
    """What ended a step in which an `asyncio.TaskGroup` raised `group`: its errors, or the first wait if it has none.

    The other waits begin when the step is executed again.
    """
    waits, rest = group.split(Waits)
    if rest is not None:
        return rest
    first: BaseException | None = waits
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert first is not None  # a group is never empty
    return first


@dataclass(frozen=True, slots=True)
class Answer:
    """What has arrived for a wait.

    Attributes:
        name: The current name of the wait. An answer is stored under the name of its wait until the step has ended, so
            after an unreadable answer the step waits under a new name.
        event: The answer; None if there is none that can be read.
        is_late: The wait has timed out.
        unreadable: Describes the last answer if it does not match its class.
    """

    name: str
    event: Event | None = None
    is_late: bool = False
    unreadable: UnreadableEvent | None = None


def is_event_class(value: object) -> TypeGuard[type[Event]]:
    """Whether it is a class of events."""
    return isinstance(value, type) and issubclass(value, Event)


def checked_requirements(work: Work, event_type: type[Event], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a wait requires, as it appears in the JSON of the events.

    Raises:
        WorkflowRuntimeError: `event_type` is not a class of events, or the requirements are not a dict.
        UnserializableValue: A requirement can never be met: an event's JSON cannot contain such a value.
        PayloadTooLarge: The requirements are too large.
    """
    where = f"step {work.step!r} of run {work.run_id!r}"
    if not is_event_class(event_type):
        raise WorkflowRuntimeError(
            f"wait_for_event() of {where} was given {event_type!r}. Give the class of the event it waits for."
        )
    about = f"The requirements of {where} for {event_type.__name__}"
    if not isinstance(given, Mapping):
        raise WorkflowRuntimeError(f"{about} are {given!r}. Give a dict: requirements={{'page': 3}}.")
    try:
        wanted = fields_to_json(event_type, dict(given))
        size = len(dump_json(wanted))
    except NotJson as flaw:
        raise UnserializableValue(f"{about} cannot be met by any event: {flaw}") from flaw
    if size > _REQUIREMENTS_BYTES:
        raise PayloadTooLarge(
            f"{about} have {size:,} bytes, at most {_REQUIREMENTS_BYTES:,} are allowed: each event of the run is "
            "compared with them. Require an id."
        )
    return wanted


def find_answer(name: str, work: Work, registry: EventRegistry) -> Answer:
    """The answer to a wait among the answers of a work item.

    Raises:
        EventMismatch: Too many answers do not match their class.
    """
    last: UnreadableEvent | None = None
    for number in range(MOST_UNREADABLE):
        current = f"{name}, again {number}" if number else name
        if current not in work.answers:
            return Answer(current, unreadable=last)
        answer = work.answers[current]
        if answer is None:
            return Answer(current, is_late=True)
        try:
            return Answer(current, decode_event(answer, registry))
        except EventMismatch as error:
            last = _without_content(unreadable(answer, error))
    assert last is not None
    raise EventMismatch(
        f"Step {work.step!r} of run {work.run_id!r} has received {MOST_UNREADABLE} answers that it cannot read, "
        f"and no longer waits. The last one: {last.reason}"
    )


def _without_content(answer: UnreadableEvent) -> UnreadableEvent:
    """The same for the run's stream: without the payload, which may not be for its readers, and limited in size."""
    return answer.model_copy(update={"payload": "", "reason": answer.reason[:_REASON_CHARACTERS]})


class WaitNames:
    """Names the waits of one execution that have no `waiter_id`.

    Equal waits are numbered in the order in which the step begins them. Concurrent tasks begin their waits in any
    order, so there the question is part of the name; if even the question is the same, the wait is refused.
    """

    def __init__(self, work: Work) -> None:
        """Args:
        work: What is executed.
        """
        self._work = work
        self._begun: dict[str, int] = {}
        self._beside: dict[str, tuple[ref[asyncio.Task[Any]], WeakSet[asyncio.Task[Any]]]] = {}
        #: The task in which the step itself is executed; a weak reference, since its error refers to this object.
        self.main: Callable[[], asyncio.Task[Any] | None] = lambda: None

    def of(self, event: str, requirements: dict[str, Any], question: Envelope | None) -> str:
        """The name of the next wait for `event`.

        Raises:
            WorkflowRuntimeError: Another task waits for the same event with the same question and requirements.
        """
        stem = f"waiter_{event}_{json.dumps(requirements, sort_keys=True, default=str)}"
        name = self._next(stem)
        task = asyncio.current_task()
        if (
            task is None or task is self.main() or name in self._work.answers
        ):  # the last condition: an older release began this wait
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
        if task not in beside:  # the task was created later, so the waits are in order
            self._beside[stem] = (ref(task), WeakSet(asyncio.all_tasks()))
            return
        kind = event.rpartition(".")[2]
        raise WorkflowRuntimeError(
            f"Several tasks of step {self._work.step!r} of run {self._work.run_id!r} wait for {kind} at the same time "
            "with the same question and requirements, so it is not clear which answer belongs to which. Give each "
            f"wait a name of its own: ctx.wait_for_event({kind}, waiter_id=…), the same whenever the step is executed."
        )

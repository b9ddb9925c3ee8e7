"""Child runs of a step: `ctx.run` and `ctx.run_all`. The step suspends until they have ended.

A child is a separate run. Its id is derived from the work item and the child's name within the step, so all executions
of the step refer to the same child, which is started only once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from ...orchestration.connection.keys import check_chosen_id
from ...orchestration.connection.settings import Settings
from ...orchestration.engine.children.spec import ChildSpec
from ...orchestration.model.decide import CHUNK
from ...orchestration.model.durations import LONGEST_SECONDS, is_count, is_duration
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import ChildFailed, WorkflowRuntimeError
from ...orchestration.model.work_item import AwaitedChild, Awaiting, OnParentEnd, Work, derive_id
from ...orchestration.sessions.names import new_run_of, session_of
from ..events.codec import decode_event, encode_event
from ..events.event import StartEvent, StopEvent, WorkflowFailedEvent
from ..events.exceptions import shown
from ..values.texts import is_name
from ..workflow.definition import WorkflowDefinition
from ..workflow.registry import Registered, Registry
from ..workflow.start_events import kept_start_event, start_event_for
from .results import result_of
from .tracing import tracing
from .waits import RaisedWaits

#: In a run's options: the sessions that wait for its end.
_OUTER_SESSIONS = "outer_sessions"


@dataclass(frozen=True, slots=True)
class ChildRun:
    """A child run to start, for `ctx.run_all`. Made by `Child.start(field=…)` on a workflow's class, or directly.

    Attributes:
        workflow: What is run.
        start_event: Its start event; by default it is made from `fields`.
        fields: Fields of the start event.
        name: Names the child within its step.
        id: A custom run id for the child; by default it is derived from the parent's.
        on_parent_end: What happens to the child when its parent ends first: it is cancelled, or continues, or the
            parent does not complete before the child has ended.
        timeout_seconds: Its time limit; by default that of `workflow`.
        session: The session to which it belongs; it waits for its turn there.
    """

    workflow: WorkflowDefinition
    start_event: StartEvent | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    id: str | None = None
    on_parent_end: OnParentEnd = "cancel"
    timeout_seconds: float | None = None
    session: str | None = None


class Children:
    """The child runs of one attempt of a step."""

    def __init__(self, work: Work, registry: Registry, settings: Settings, waits: RaisedWaits) -> None:
        """Args:
        work: The attempt.
        registry: Where workflows are found.
        settings: Limits the size of a start event, and names the default queue.
        waits: The waits of the attempt.
        """
        self._work, self._registry, self._settings, self._waits = work, registry, settings, waits
        self._begun: dict[str, int] = {}
        self._named: set[str] = set()
        self._pending: dict[str, AwaitedChild] = {}
        #: The task in which the step itself is executed; a weak reference, since its error refers to this object.
        self.main: Callable[[], asyncio.Task[Any] | None] = lambda: None

    async def run(self, child: ChildRun) -> Any:
        """See `Context.run`."""
        self._check(child)
        return (await self._ends([child], self._named_one(child), None))[0]

    async def run_all(self, children: Iterable[ChildRun], limit: int | None, *, return_exceptions: bool) -> list[Any]:
        """See `Context.run_all`."""
        if not isinstance(children, Iterable):
            raise WorkflowRuntimeError(
                f"ctx.run_all() of step {self._work.step!r} of run {self._work.run_id!r} was given {children!r}. Give "
                "it a list: [Child.start(page=page) for page in pages]."
            )
        children = list(children)  # a generator can be read only once
        if limit is not None and not is_count(limit):
            raise WorkflowRuntimeError(f"limit must be a number of child runs greater than 0, or None; got {limit!r}.")
        for child in children:
            self._check(child)
        events = [self._start_event(child) for child in children]
        stem = self._next("all", events)
        names = [child.name or f"{stem}.{number}" for number, child in enumerate(children)]
        return await self._ends(children, names, limit, return_exceptions=return_exceptions)

    def _check(self, child: ChildRun) -> None:
        if isinstance(child, ChildRun) and isinstance(child.workflow, WorkflowDefinition):
            if child.name is None or is_name(child.name):
                return
            raise WorkflowRuntimeError(
                f"Step {self._work.step!r} of run {self._work.run_id!r} cannot give a child run the name "
                f"{child.name!r}. Give a text, the same whenever the step is executed."
            )
        given = child.workflow if isinstance(child, ChildRun) else child
        raise WorkflowRuntimeError(
            f"Step {self._work.step!r} of run {self._work.run_id!r} cannot run {given!r} as a child. Give ctx.run an "
            "instance, ctx.run(Child(), page=1), and ctx.run_all a list of [Child.start(page=1), …]."
        )

    def _named_one(self, child: ChildRun) -> list[str]:
        return [child.name or self._next(child.workflow.workflow_name, [self._start_event(child)])]

    def _next(self, stem: str, events: Sequence[Envelope]) -> str:
        """A name for unnamed children: from their order in the step, and in its tasks also from their content."""
        if asyncio.current_task() is not self.main():
            stem += f"~{derive_id(*(part for event in events for part in (event.type, event.payload)))}"
        number = self._begun[stem] = self._begun.get(stem, -1) + 1
        return f"{stem}.{number}"

    def _start_event(self, child: ChildRun) -> Envelope:
        WorkflowDefinition.ensure_valid(child.workflow)
        event = start_event_for(child.workflow, child.start_event, child.fields)
        return encode_event(event, self._settings)

    async def _ends(
        self, children: Sequence[ChildRun], names: list[str], limit: int | None, *, return_exceptions: bool = False
    ) -> list[Any]:
        for name in names:
            if name in self._named:
                raise WorkflowRuntimeError(
                    f"Step {self._work.step!r} of run {self._work.run_id!r} has two child runs with the name {name!r}. "
                    "Give each a name of its own."
                )
            self._named.add(name)
        open_ones = [
            self._awaited(child, name)
            for child, name in zip(children, names, strict=True)
            if f"child|{name}" not in self._work.answers
        ]
        if open_ones:
            # Many children are started in chunks of CHUNK, which keeps each commit short.
            self._pending |= {child.child_id: child for child in open_ones[:CHUNK]}
            if asyncio.current_task() is not self.main():
                await asyncio.sleep(0)  # tasks that begin together start their children together
            raise self._waits.new(Awaiting(tuple(self._pending.values()), limit), self.main())
        ends = [self._end(child, name) for child, name in zip(children, names, strict=True)]
        if not return_exceptions:
            for end in ends:
                if isinstance(end, ChildFailed):
                    raise end
        return ends

    def _awaited(self, child: ChildRun, name: str) -> AwaitedChild:
        registered = self._registered(child)
        if child.on_parent_end not in get_args(OnParentEnd):
            raise WorkflowRuntimeError(
                f"on_parent_end must be one of {', '.join(get_args(OnParentEnd))}; got {child.on_parent_end!r}."
            )
        about = WorkflowDefinition.run_arguments(child.workflow)
        if child.timeout_seconds is not None:
            if not is_duration(child.timeout_seconds):
                raise WorkflowRuntimeError(
                    f"timeout_seconds must be a number of seconds up to {LONGEST_SECONDS:,}, got "
                    f"{child.timeout_seconds!r}."
                )
            about["timeout_seconds"] = about["options"]["timeout"] = child.timeout_seconds
        if outer := self._outer_sessions(child.session):
            about["options"] |= {_OUTER_SESSIONS: outer}
        about["when_busy"] = None if child.session is None else "queue"
        event = self._start_event(child)
        about["options"] |= kept_start_event(child.workflow, event)
        plan = registered.plan.with_priority(about["options"].get("priority"))
        if (traced := tracing()) is not None:
            about["options"] |= traced.inherited()
        child_id = self._id_of(child, name)
        if child.id is None:
            child_id = self._work.kept.get(f"child|{name}", child_id)
        self._registry.keep(child_id, child.workflow)
        return AwaitedChild(
            child_id=child_id,
            wait=f"child|{name}",
            workflow=registered.name,
            plan_digest=plan.digest,
            plan=plan.to_json(),
            event_name=event.type,
            spec=ChildSpec(event, self._settings.queue, **about).to_bytes(),
            on_parent_end=child.on_parent_end,
        )

    def _id_of(self, child: ChildRun, name: str) -> str:
        if child.id is not None and child.session is not None:
            raise WorkflowRuntimeError(
                f"Child run {name!r} of step {self._work.step!r} is given both id={child.id!r} and "
                f"session={child.session!r}. The ids of a session's runs follow from it: leave id out."
            )
        if child.id is not None:
            return check_chosen_id(child.id)
        branch = [self._work.branch] if self._work.branch else []  # a run that was rewound has other children
        made = derive_id(self._work.run_id, *branch, self._work.work_id, "child", name, digest_size=16)
        return made if child.session is None else new_run_of(child.session, made)

    def _outer_sessions(self, session: str | None) -> list[str]:
        """The sessions that wait for a child's end: its parent's, and those that wait for the parent. Not its own."""
        outer = list(json.loads(self._work.options or "{}").get(_OUTER_SESSIONS, []))
        run_id = self._work.run_id
        if "." in run_id and (own := session_of(run_id)) not in outer:
            outer.append(own)
        if session in outer:
            raise WorkflowRuntimeError(
                f"Step {self._work.step!r} of run {run_id!r} cannot wait for a child run in session {session!r}: that "
                "session's current run is this one, or waits for it, so neither would ever end. Run the child in "
                "another session, or in none: a run without session=… may do the same work."
            )
        return outer

    def _registered(self, child: ChildRun) -> Registered:
        if self._registry.find(child.workflow.workflow_name) is None:
            self._registry.prepare(child.workflow)
        return self._registry.of(child.workflow)

    def _end(self, child: ChildRun, name: str) -> Any:
        """The result of a child that has ended, or the `ChildFailed` if it did not complete."""
        envelope = self._work.answers[f"child|{name}"]
        assert envelope is not None  # only waits for events time out
        event = cast(StopEvent, decode_event(envelope, self._registered(child).events))
        # A child that was started by a fork's origin or before a rewind has another id than one started here.
        run_id = self._work.ended.get(f"child|{name}") or self._id_of(child, name)
        try:
            return result_of(run_id, event)
        except Exception as error:
            failed = ChildFailed(
                run_id, event.step_name if isinstance(event, WorkflowFailedEvent) else "", shown(error)
            )
            failed.__cause__ = error
            return failed

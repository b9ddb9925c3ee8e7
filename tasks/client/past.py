"""The past of a run through its handler: list, inspect, verify, fork and rewind."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Self

from ...orchestration.connection.keys import check_chosen_id, new_id
from ...orchestration.engine.protocol import Engine
from ...orchestration.history.forks import going_on
from ...orchestration.history.forks.edits import Edits, StateEdit
from ...orchestration.history.points import Edge, Point, RunAt, Where, point_at, points
from ...orchestration.history.verify import verify
from ...orchestration.model.decide import Limits
from ...orchestration.model.durations import LONGEST_SECONDS, is_time_from_now
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import SessionExists, UnknownEvent, WorkflowRuntimeError
from ...orchestration.model.plan import Plan
from ...orchestration.sessions.look import session_record
from ...orchestration.sessions.names import new_run_of
from ...orchestration.streams.ends import StartedRun
from ...orchestration.streams.reader import StreamHub
from ..events.codec import EventMismatch, EventRegistry, decode_event, encode_event
from ..events.event import Event, event_name
from ..events.run_events import RunForked, WorkflowRewound
from ..events.serializers import BaseSerializer
from ..values.json_values import field_problems

#: A point, its number, or 'before STEP', 'after STEP', 'before STEP#2'.
PointLike = Point | int | str


@dataclass(frozen=True)
class PointInTime(RunAt):
    """A run as it was at a point of its past: `RunAt`, and a snapshot of it."""

    _write: Callable[[RunAt, BaseSerializer | None], dict[str, Any]] = field(default=lambda *_: {}, repr=False)

    def to_dict(self, serializer: BaseSerializer | None = None) -> dict[str, Any]:
        """A snapshot in the form of `ctx.to_dict`, for `Context.from_dict`."""
        return self._write(self, serializer)


class Points(AsyncIterator[Point]):
    """The points of a run, in an `async for` or, without an event loop, in a `for`."""

    def __init__(self, found: AsyncIterator[Point], all_at_once: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._found, self._all_at_once = found, all_at_once

    async def __anext__(self) -> Point:
        return await anext(self._found)

    async def _listed(self) -> list[Point]:
        return [point async for point in self._found]

    def listed(self) -> list[Point]:
        """All points in a list. Blocks, even on an event loop."""
        found: list[Point] = self._all_at_once(self._listed())
        return found

    def __iter__(self) -> Iterator[Point]:
        return iter(self.listed())


class WithPast(ABC):
    """The methods of a handler for its run's past. None takes longer than reading the run's journal."""

    run_id: str
    _engine: Engine
    _hub: StreamHub
    _started: StartedRun | None
    _limits: Limits
    _code: Plan | None
    _events: EventRegistry

    def history(
        self,
        *,
        step: str | None = None,
        kinds: Collection[str] | None = None,
        after: int = 0,
        newest_first: bool = False,
    ) -> Points:
        """The kept changes of the run: `async for point in handler.history()`, or `for` without an event loop.

        Args:
            step: Only changes about this step.
            kinds: Only changes of these kinds: `start`, `claim`, `commit`, `state`, `send`, `wake`, `end`, …
            after: Only changes with a higher number.
            newest_first: Begin with the last change.

        Raises:
            StoreUnavailable: Redis did not answer.
        """
        found = self._points(step, kinds, after, newest_first=newest_first)
        return Points(found, self._engine.store.connection.portal.call)

    async def _points(
        self, step: str | None, kinds: Collection[str] | None, after: int, *, newest_first: bool
    ) -> AsyncIterator[Point]:
        reading = points(self._engine.store, self.run_id, step=step, kinds=kinds, after=after)
        if not newest_first:
            async for point in reading:
                yield point
            return
        for point in reversed([point async for point in reading]):
            yield point

    def at(
        self,
        point: PointLike | None = None,
        *,
        step: str | None = None,
        nth: int = 1,
        edge: Edge = "after",
        at_: datetime | None = None,
        event: type[Event] | None = None,
    ) -> Any:
        """The run as it was at a point of its past. To be awaited; without an event loop it blocks and returns it.

        It is rebuilt from the run's journal with the same functions that made the changes. The run is only read.

        Args:
            point: A point, its number, or `before STEP`, `after STEP`, `before STEP#2`.
            step: Instead of a point: the outcome of this step.
            nth: Which of its outcomes, from 1; -1 is the last.
            edge: After or before the point. Before an outcome means before its attempt began.
            at_: Instead of a point: after the last change up to this instant.
            event: Instead of a point: where a step first returned an event of this class.

        Returns:
            A `PointInTime`.

        Raises:
            HistoryUnavailable: The run has no such point, or it is no longer kept; the message says what is available.
            HistoryDamaged: The journal cannot be replayed.
            RunNotFound: There is no such run, or its retention is over.
        """
        name = None if event is None else event_name(event)
        where = Where(step=step, nth=nth, edge=edge, at=at_, event=name) if point is None else _where(point, edge)
        return self._do(self._at(where))

    async def _at(self, where: Where) -> PointInTime:
        found = await point_at(self._engine.store, self.run_id, where)
        return PointInTime(**vars(found), _write=self._written)

    def snapshot_at(self, point: PointLike) -> dict[str, Any]:
        """A snapshot as of a point, for `Context.from_dict`. Blocks, even on an event loop.

        Raises:
            HistoryUnavailable, HistoryDamaged, RunNotFound: As in `at`.
        """
        found: RunAt = self._engine.store.connection.portal.call(self._at(_where(point, "after")))
        return self._written(found, None)

    def verify(self) -> Any:
        """Rebuild the run from its journal and compare it with the stored run. To be awaited, as `at`.

        *Promise:* the run is only read, and may be running.

        Returns:
            A `Verified` with `holds` and `differences`.

        Raises:
            HistoryUnavailable, HistoryDamaged, RunNotFound: As in `at`.
        """
        return self._do(verify(self._engine.store, self.run_id))

    def fork(
        self,
        point: PointLike,
        *,
        run_id: str | None = None,
        session: str | None = None,
        state: StateEdit | None = None,
        events: Mapping[str, Event | Mapping[str, Any]] | None = None,
        reuse: Literal["none", "recorded"] = "none",
        answers: Literal["ask", "recorded"] = "ask",
        children: Literal["keep", "fork"] = "keep",
        code: Literal["current", "recorded"] = "current",
        keep_idempotency_keys: bool = False,
        timeout_seconds: float | None = None,
    ) -> Any:
        """Start a new run that continues from a point of this run's past. To be awaited, as `at`.

        Steps that were executing at the point are executed again; steps that had ended are not. Joins, waiters, the
        inbox and failure counts are as they were at the point; timers keep the time that they had left. A step that
        was waiting for an answer waits again.

        *Promise:* this run is only read. The new run begins atomically, or nothing of it remains.

        Args:
            point: As in `at`.
            run_id: Id of the new run; by default a generated one.
            session: Begin a new session of this name with the new run and its state.
            state: How to change `ctx.store` first: a JSON Patch, a dict of top-level keys (None deletes a key), or a
                function of the state.
            events: By work item, or by step if it has only one: the event to execute it with instead, or a dict of
                fields to replace in its event.
            reuse: "recorded": outcomes that this run recorded after the point are reused instead of executing steps,
                if a step's events and the keys of `ctx.store` that it read are the same. Code, resources,
                clocks and anything else that a step depends on are not compared.
            answers: "recorded": an event from outside that answered a `wait_for_event` after the point also answers it
                in the new run, which does not ask again.
            children: What happens to child runs that a step waits for at the point. "keep": the new run takes over the
                ends that this run has received since, and waits for children that are still running; they remain this
                run's children and do not end with the new run. "fork": each child is forked too, as of that instant.
            code: "current": the new run uses the workflow as loaded here, if it is loaded. "recorded": it uses the plan
                with which this run started.
            keep_idempotency_keys: `ctx.idempotency_key` is the same as in this run for the same work.
            timeout_seconds: Its time limit from now; by default that of this run.

        Returns:
            The new run's handler.

        Raises:
            ContextSerdeError: The code lacks steps for which there is work. Nothing was written.
            WorkflowRuntimeError: An edit does not fit, or the time limit is invalid. Nothing was written.
            RunExists, SessionExists: The run id or the session is taken.
            HistoryUnavailable, HistoryDamaged, RunNotFound: As in `at`.
        """
        if session is not None and run_id is not None:
            raise WorkflowRuntimeError(
                "fork() takes a run_id or a session, not both: the ids of a session's runs follow from its name."
            )
        keeping = going_on.Keeping(
            reuse=_is("reuse", reuse, "recorded", "none"),
            answers=_is("answers", answers, "recorded", "ask"),
            keys=keep_idempotency_keys,
            children=_is("children", children, "keep", "fork"),
        )
        is_recorded = _is("code", code, "recorded", "current")
        chosen = run_id if run_id is None else check_chosen_id(run_id)
        edits = self._edits(state, events or {})
        _check_time_limit(timeout_seconds)
        return self._do(self._fork(point, chosen, session, edits, keeping, timeout_seconds, recorded_code=is_recorded))

    async def _fork(
        self,
        point: PointLike,
        run_id: str | None,
        session: str | None,
        edits: Edits,
        keeping: going_on.Keeping,
        timeout_seconds: float | None,
        *,
        recorded_code: bool,
    ) -> Self:
        store = self._engine.store
        if session is not None and await session_record(store, session) is not None:
            raise SessionExists(f"A session {session!r} exists; a fork begins a new one. Choose another name.")
        chosen = run_id or (new_id() if session is None else new_run_of(session))
        found = await self._at(_where(point, "after"))
        record = await store.run(self.run_id)
        seconds = record.options.get("timeout") if timeout_seconds is None else timeout_seconds
        plan = self._code if self._code is not None and not recorded_code else await store.plan_of(self.run_id)
        limit = await store.command("read a run", "HGET", store.locate(self.run_id)["run"], "limit")
        await going_on.fork(
            self._engine,
            found,
            chosen,
            plan,
            edits,
            self._limits,
            announce=lambda at: encode_event(RunForked(run_id=at.run_id, seq=at.seq), store.settings),
            keeping=keeping,
            options=record.options | {"timeout": seconds},
            timeout_seconds=seconds,
            num_concurrent_runs=int(limit) if limit else None,
            in_session=session is not None,
        )
        return self.sibling(chosen)

    def rewind(
        self,
        point: PointLike,
        *,
        stop_running: bool = False,
        state: StateEdit | None = None,
        events: Mapping[str, Event | Mapping[str, Any]] | None = None,
        timeout_seconds: float | None = None,
    ) -> Any:
        """Rewind the run itself to a point of its past, however it has ended. To be awaited, as `at`.

        It continues from there as in `fork`, but under its own id and with the plan that it started with. Its history
        continues too: earlier changes stay readable. Published events stay published; a `WorkflowRewound` is added.

        Child runs begun after the point are cancelled; those that the run waited for at the point continue.

        *Promise:* one script. From then on every outcome, event and write of an attempt that began before is
        refused, wherever it is executed. Two concurrent calls are applied one after the other.

        Args:
            point: As in `at`.
            stop_running: Rewind the run even if it is running: the steps being executed are stopped.
            state, events: As in `fork`.
            timeout_seconds: Its time limit from now; by default the one that it was started with.

        Raises:
            RunError: The run is running and `stop_running` is false; or its session has moved on to another run, or it
                waits for its turn in the session. Nothing was written.
            HistoryUnavailable: As in `at`; or the run had no work left at the point. Nothing was written.
            WorkflowRuntimeError, ContextSerdeError, HistoryDamaged, RunNotFound: As in `fork`.
        """
        _check_time_limit(timeout_seconds)
        return self._do(self._rewind(point, state, events or {}, timeout_seconds, stop_running=stop_running))

    async def _rewind(
        self,
        point: PointLike,
        state: StateEdit | None,
        events: Mapping[str, Event | Mapping[str, Any]],
        timeout_seconds: float | None,
        *,
        stop_running: bool,
    ) -> None:
        store = self._engine.store
        found = await self._at(_where(point, "after"))
        record = await store.run(self.run_id)
        with self._hub.rewinding(self.run_id):
            await going_on.rewind(
                self._engine,
                found,
                self._edits(state, events),
                self._limits,
                announcement=encode_event(WorkflowRewound(seq=found.seq), store.settings),
                stop_running=stop_running,
                timeout_seconds=record.options.get("timeout") if timeout_seconds is None else timeout_seconds,
            )
        self._started = None  # in a forked process, it is of the parent's mailbox

    def _edits(self, state: StateEdit | None, events: Mapping[str, Event | Mapping[str, Any]]) -> Edits:
        settings = self._engine.store.settings
        given = events.items()
        encoded = {name: encode_event(e, settings) if isinstance(e, Event) else e for name, e in given}
        return Edits(state, encoded, settings.payload_max_bytes, self._check_fits)

    def _check_fits(self, envelope: Envelope) -> None:
        try:
            decode_event(envelope, self._events)
        except UnknownEvent:
            return  # its class is not loaded here; the workers may have it
        except EventMismatch as error:
            cause = error.__cause__
            problems = field_problems(cause if isinstance(cause, Exception) else error)
            raise WorkflowRuntimeError(f"The edited {envelope.type} does not fit its class: {problems}.") from error

    @abstractmethod
    def sibling(self, run_id: str) -> Self:
        """The handler of another run of the same workflow."""

    @abstractmethod
    def _written(self, at: RunAt, serializer: BaseSerializer | None) -> dict[str, Any]: ...

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """On an event loop start at once and return an awaitable; elsewhere block and return the value."""
        call = self._engine.store.connection.portal.call
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return call(coroutine)
        return loop.run_in_executor(None, call, coroutine)


def _check_time_limit(seconds: object) -> None:
    if seconds is not None and not is_time_from_now(seconds):
        raise WorkflowRuntimeError(
            f"timeout_seconds must be a number of seconds from 0 to {LONGEST_SECONDS:,}, got {seconds!r}. Leave it out "
            "to keep the limit of the run."
        )


def _is(name: str, value: str, one: str, other: str) -> bool:
    """Whether an option has the value `one`.

    Raises:
        WorkflowRuntimeError: It has neither value.
    """
    if value not in (one, other):
        raise WorkflowRuntimeError(f"{name} must be {other!r} or {one!r}; got {value!r}.")
    return value == one


def _where(point: PointLike, edge: Edge) -> Where:
    if isinstance(point, Point):
        return Where(seq=point.seq, edge=edge)
    return Where(seq=point, edge=edge) if isinstance(point, int) else Where.of(point)

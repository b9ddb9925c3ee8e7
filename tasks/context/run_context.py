"""What a context does outside of a step: before a run, and for the caller of a run."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from ...orchestration.connection.keys import state_id_of
from ...orchestration.connection.settings import Settings
from ...orchestration.model.errors import ContextSerdeError, ContextStateError
from ...orchestration.snapshots.saved import RunSnapshot
from ...orchestration.snapshots.take import take_snapshot
from ...orchestration.store.verbs import Store
from ..events.codec import EventRegistry
from ..events.event import Event, event_name
from ..events.run_events import SYSTEM_EVENTS
from ..events.serializers import BaseSerializer, JsonSerializer
from ..snapshots.event_texts import EventTexts
from ..snapshots.reading import checked, read
from ..snapshots.writing import written
from ..state.access import StateAccess
from ..state.fields import StateFields, check_replaceable, merge
from ..state.memory import InMemoryStateStore
from ..state.snapshot import dump_stored_state
from ..state.store import DictState, StateStore
from ..workflow.definition import WorkflowDefinition, serializer_of, state_class_of
from ..workflow.plan_builder import build_plan

logger = logging.getLogger("umbel.context")


Names = frozenset[str]


@dataclass(frozen=True)
class Beginning:
    """What a run begins with besides its start event.

    Attributes:
        snapshot: The state, and saved work to continue with, if any.
    """

    snapshot: RunSnapshot

    @property
    def goes_on(self) -> bool:
        """Whether the run continues saved work and so gets no start event."""
        return self.snapshot.goes_on


class NewRunContext:
    """A context that has no run yet: an initial state, and possibly the unfinished work of another run."""

    def __init__(
        self,
        workflow: WorkflowDefinition,
        snapshot: RunSnapshot | None = None,
        state: InMemoryStateStore[Any] | None = None,
    ) -> None:
        """Args:
        workflow: What will be run.
        snapshot: The snapshot of another run to continue from.
        state: The initial state.
        """
        self.workflow = workflow
        self.snapshot = snapshot
        self.state = (
            InMemoryStateStore.of_class(state_class_of(type(workflow)) or DictState) if state is None else state
        )

    @classmethod
    def load(
        cls, workflow: WorkflowDefinition, data: Mapping[str, Any], serializer: BaseSerializer | None
    ) -> NewRunContext:
        """A context that continues from a snapshot.

        Raises:
            ContextSerdeError: The snapshot cannot be used; the message says why.
        """
        return cls._load(workflow, data, serializer or serializer_of(workflow) or JsonSerializer(), None)

    @classmethod
    def load_foreign(
        cls, workflow: WorkflowDefinition, data: Mapping[str, Any], events: Collection[type[Event]]
    ) -> NewRunContext:
        """The same from a snapshot that a client may have written or changed.

        Only these events (except umbel's own) and the workflow's state class are instantiated; exceptions become text.

        Raises:
            ContextSerdeError: The snapshot cannot be used or names another class; the message says why.
        """
        declared = [each for each in events if not issubclass(each, SYSTEM_EVENTS)]
        state_class = state_class_of(type(workflow))
        states = [] if state_class is None else [state_class]
        serializer = JsonSerializer(allowed_types=[*declared, *states])
        try:
            return cls._load(workflow, data, serializer, frozenset(map(event_name, declared)))
        except ContextSerdeError:
            raise
        except Exception as error:  # a client may have put anything where umbel writes something specific
            raise ContextSerdeError(f"The snapshot is damaged: {type(error).__name__}: {error}") from error

    @classmethod
    def _load(
        cls, workflow: WorkflowDefinition, data: Mapping[str, Any], serializer: BaseSerializer, only: Names | None
    ) -> NewRunContext:
        with serializer.restricting() if isinstance(serializer, JsonSerializer) else nullcontext():
            return cls._read(workflow, data, serializer, only)

    @classmethod
    def _read(
        cls, workflow: WorkflowDefinition, data: Mapping[str, Any], serializer: BaseSerializer, only: Names | None
    ) -> NewRunContext:
        shape = checked(data, workflow.workflow_name)
        texts = EventTexts(serializer, EventRegistry.of(workflow.events), only)
        snapshot = read(shape, build_plan(workflow), texts)
        if shape.state is None:
            return cls(workflow, snapshot)
        found: InMemoryStateStore[Any] = InMemoryStateStore.from_dict(shape.state.model_dump(), serializer)
        return cls(workflow, snapshot, _fitting(workflow, found))

    def to_dict(self, serializer: BaseSerializer | None, *, include_state: bool) -> dict[str, Any]:
        """See `Context.to_dict`."""
        serializer = serializer or serializer_of(self.workflow) or JsonSerializer()
        texts = EventTexts(serializer, EventRegistry.of(self.workflow.events))
        state = self.state.to_dict(serializer) if include_state else {}
        return written(self._saved, build_plan(self.workflow), state, texts)

    @property
    def _saved(self) -> RunSnapshot:
        return self.snapshot or RunSnapshot(workflow=self.workflow.workflow_name, status="completed")

    @property
    def is_running(self) -> bool:
        """Whether there is unfinished work to continue."""
        return self.snapshot is not None and self.snapshot.goes_on

    def beginning(self, workflow: WorkflowDefinition, *, has_new_input: bool) -> Beginning:
        """See `Context.beginning_of_run`."""
        fields = StateFields(state_class_of(type(workflow)) or DictState, "new", Settings())
        state = self.state.to_fields(fields)
        return _beginning(workflow, replace(self._saved, state=state), has_new_input)


class RunContext:
    """The implementation of a context outside a run: the run as its caller sees it."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        state_class: type[BaseModel] | None,
        registry: EventRegistry,
        *,
        send: Callable[[Event, str | None], None],
        stream: Callable[[], AsyncIterator[Event]],
        result: Callable[[], Awaitable[Any]],
        serializer: BaseSerializer | None = None,
    ) -> None:
        """Args:
        store: Where the run is stored.
        run_id: The run.
        state_class: Model of the state.
        registry: Classes of the run's events.
        send: Sends an event into the run: (event, step name or None).
        stream: All events of the run, including umbel's own.
        result: The run's result.
        serializer: The default serializer of snapshots; None is JSON.
        """
        self._serializer = serializer or JsonSerializer()
        self.store, self.run_id, self.registry = store, run_id, registry
        self.send, self.stream, self.result = send, stream, result
        self.state_class = state_class or DictState
        self._portal = store.connection.portal
        self.state = StateStore(StateAccess(store, run_id, state_id_of(run_id), self.state_class, None))

    @property
    def is_running(self) -> bool:
        """Whether the run has not ended."""
        return self._portal.call(self.store.run(self.run_id)).status == "running"

    async def running_steps(self) -> list[str]:
        """Names of the steps that hold a slot."""
        return await self.store.active_steps(self.run_id)

    def to_dict(self, serializer: BaseSerializer | None, *, include_state: bool) -> dict[str, Any]:
        """See `Context.to_dict`."""
        snapshot = self._portal.call(take_snapshot(self.store, self.run_id))
        return self.written(snapshot, serializer, include_state=include_state)

    def written(
        self, snapshot: RunSnapshot, serializer: BaseSerializer | None, *, include_state: bool = True
    ) -> dict[str, Any]:
        """A snapshot of the run in the form of `Context.to_dict`."""
        serializer = serializer or self._serializer
        fields = StateFields(self.state_class, self.run_id, self.store.settings)
        state = dump_stored_state(fields, snapshot.state, serializer) if include_state else {}
        plan = self._portal.call(self.store.plan_of(self.run_id))
        return written(snapshot, plan, state, EventTexts(serializer, self.registry))

    def beginning(self, workflow: WorkflowDefinition, *, has_new_input: bool) -> Beginning:
        """See `Context.beginning_of_run`."""
        snapshot = self._portal.call(take_snapshot(self.store, self.run_id))
        if snapshot.status == "running":
            raise ContextStateError(
                f"run(ctx=…) was given the context of run {self.run_id!r}, which is still running. Await its handler "
                "or cancel it first; to continue from where it is now, give Context.from_dict(workflow, ctx.to_dict())."
            )
        return _beginning(workflow, snapshot, has_new_input)


def _beginning(workflow: WorkflowDefinition, snapshot: RunSnapshot, has_new_input: bool) -> Beginning:
    name = workflow.workflow_name
    if not snapshot.goes_on:
        return Beginning(replace(snapshot, workflow=name))
    if has_new_input:
        logger.warning(
            "A run of %s begins with the state of an unfinished run and with new input: the %d work items "
            "left of that run are dropped. Omit the input to continue with them.",
            name,
            len(snapshot.items),
            extra={"action": "saved_work_dropped"},
        )
        return Beginning(RunSnapshot(workflow=name, status="completed", state=snapshot.state))
    if snapshot.workflow != name:
        raise ContextSerdeError(
            f"run(ctx=…) of {name!r} was given a context with unfinished work of {snapshot.workflow!r}. Give it to "
            "the workflow it is of, or give new input, which keeps only the state."
        )
    return Beginning(snapshot)


def _fitting(workflow: WorkflowDefinition, found: InMemoryStateStore[Any]) -> InMemoryStateStore[Any]:
    """A loaded state, converted to the class that the workflow's steps declare.

    Raises:
        ContextSerdeError: The state is of an unrelated class.
    """
    state_class = state_class_of(type(workflow)) or DictState
    state = found.current_state()
    try:
        if check_replaceable(state_class, state):
            return found
        whole = state_class()
        merge(whole, state)
    except ValueError as error:
        raise ContextSerdeError(
            f"The state in the snapshot does not fit workflow {workflow.workflow_name!r}: {error}"
        ) from error
    return InMemoryStateStore(whole)

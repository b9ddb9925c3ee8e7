"""What a snapshot of a context contains: version 2, as LlamaIndex Workflows writes it.

Every *event* below is a text that a serializer made from one event. Where the format allows it, umbel adds a key of its
own, `umbel`; unknown keys are kept.

Instants are seconds since 1970. A *scope path* names the open fan-outs around an event, the innermost last.

How the parts fit together:

* A work item that is queued or running is one `Attempt`, in `queue` or `in_progress`. On loading both are queued again.
* A work item that waits for an event is only an unresolved `Waiter`. Once the event has arrived, the item is an attempt
  again, with the same `work_item_id`, and the waiter keeps the answer until the step has finished.
* An open fan-out is an `OpenStream`, under its id in `streams`. Its `open_work_items` counts the attempts
  and unresolved waiters whose scope path ends with it, and for each open stream directly inside it the bindings of that
  stream that are not yet released. At 0 it closes, and all its bindings fire that have not fired.
* A *binding* says which step gathers what: `source->target:module.A,module.B:All:nearest`, with `Take(3)` instead of
  `All` for a step that takes the first three. It follows from the signatures alone.
* What a binding has gathered of a stream so far is a `Gathering`, under `stream_id:binding_id` in
  `collection_release_states`, from its first event on.
* What it has released is a `Release`, next to the event of the attempt that the gathering step is called with. It is
  authoritative: the attempt's `event` is rebuilt from it.
* `static_collect_events` are events of a step with several event parameters that do not form a complete set yet: in
  order of arrival, without the parameter they are for. A complete set takes the first event for each parameter.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

#: The version that is described here and written.
VERSION = 2


class Release(BaseModel):
    """One batch that a step with a `list[E]` parameter is called with.

    Attributes:
        binding_id: Which fan-out step's events it gathers, and how.
        stream_id: The fan-out they come from.
        events: The events in order of arrival.
        output_scope_path: The scope path of what the step returns, which is that of the stream itself.
    """

    binding_id: str
    stream_id: str
    events: list[str] = Field(default_factory=list)
    output_scope_path: list[str] = Field(default_factory=list)


class Attempt(BaseModel):
    """One event that a step will be called with, or is being called with.

    Attributes:
        event: The step's input; with several event parameters the event that completed the set.
        bound_events: The whole set, by parameter. None for a step with one event parameter.
        attempts: Failures so far: 0 on the first attempt.
        first_attempt_at: When it was first called.
        last_exception: The latest failure: `{"exception_type": "module.Class", "exception_message": …}`.
        last_failed_at: When that was.
        recovery_counts: How often each `@catch_error` step has handled a failure so far, by its name.
        not_before: When a delayed retry is due.
        scope_path: The fan-outs around it.
        collection_release_payload: For a step that gathers: its input.
        work_item_id: Equal in all attempts of one work item. None in older snapshots.
    """

    model_config = ConfigDict(extra="allow")

    event: str
    bound_events: dict[str, str] | None = None
    attempts: int = 0
    first_attempt_at: float | None = None
    last_exception: dict[str, Any] | None = None
    last_failed_at: float | None = None
    recovery_counts: dict[str, int] = Field(default_factory=dict)
    not_before: float | None = None
    scope_path: list[str] = Field(default_factory=list)
    collection_release_payload: Release | None = None
    work_item_id: str | None = None


class Waiter(BaseModel):
    """A work item that waits, or has waited, in `wait_for_event`.

    The timeout is not written, and neither are the requirements: a waiter with requirements is created again by calling
    its step again.

    Attributes:
        waiter_id: Names the wait within its step.
        event: The input of the step.
        bound_events: As in `Attempt`.
        waiting_for_event: The class it waits for, as `module.Class`.
        has_requirements: Whether only some events of this class are accepted.
        resolved_event: The event that arrived; None while it waits.
        scope_path: As in `Attempt`.
        collection_release_payload: As in `Attempt`.
        work_item_id: As in `Attempt`.
    """

    model_config = ConfigDict(extra="allow")

    waiter_id: str
    event: str
    bound_events: dict[str, str] | None = None
    waiting_for_event: str
    has_requirements: bool = False
    resolved_event: str | None = None
    scope_path: list[str] = Field(default_factory=list)
    collection_release_payload: Release | None = None
    work_item_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_requirements(cls, value: Any) -> Any:
        """Older snapshots contain the requirements themselves."""
        if isinstance(value, dict) and "requirements" in value:
            value = dict(value)
            value["has_requirements"] = bool(value.pop("requirements")) or value.get("has_requirements", False)
        return value


class StepSnapshot(BaseModel):
    """All unfinished work of one step.

    Attributes:
        queue: Waiting for a slot or for a delayed retry.
        in_progress: Being executed.
        collected_events: What `collect_events` has gathered, by buffer id, in order of arrival.
        static_collect_events: Events of incomplete sets, for a step with several event parameters.
        collected_waiters: The step's waits.
    """

    model_config = ConfigDict(extra="allow")

    queue: list[Attempt] = Field(default_factory=list)
    in_progress: list[Attempt] = Field(default_factory=list)
    collected_events: dict[str, list[str]] = Field(default_factory=dict)
    static_collect_events: list[str] = Field(default_factory=list)
    collected_waiters: list[Waiter] = Field(default_factory=list)


class Delivery(BaseModel):
    """An event that was sent and has not reached its steps yet. umbel writes none: its sends deliver at once.

    Attributes:
        event: The event that was sent.
        step_id: The only step it is for; None for all that accept it.
        recovery_counts: As in `Attempt`.
        scope_path: As in `Attempt`.
    """

    model_config = ConfigDict(extra="allow")

    event: str
    step_id: str | None = None
    recovery_counts: dict[str, int] = Field(default_factory=dict)
    scope_path: list[str] = Field(default_factory=list)


class OpenStream(BaseModel):
    """An open fan-out.

    Attributes:
        stream_id: Its id.
        source_step: The step that returned the list.
        scope_path: The fan-outs around it, without itself.
        open_work_items: Number of items that must end before it closes; see above.
        accepting_binding_ids: The bindings whose source is `source_step`.
    """

    model_config = ConfigDict(extra="allow")

    stream_id: str
    source_step: str
    scope_path: list[str] = Field(default_factory=list)
    open_work_items: int = 0
    accepting_binding_ids: list[str] = Field(default_factory=list)


class Gathering(BaseModel):
    """What one binding has gathered of one stream.

    Attributes:
        binding_id: The binding.
        stream_id: The stream.
        buffer: The events in order of arrival.
        released: Whether it fired before the stream closed; then it gathers no more events.
    """

    binding_id: str
    stream_id: str
    buffer: list[str] = Field(default_factory=list)
    released: bool = False


class StatePart(BaseModel):
    """The state.

    Attributes:
        store_type: `in_memory`: the data is here. Other types name a place that only their own store can read.
        state_type: Name of the state's class. Informational: the data names its class itself.
        state_module: Its module.
        state_data: For a `DictState` `{"_data": {key: text}}`, for a state model one text; the serializer writes each.
    """

    store_type: str = "in_memory"
    state_type: str = "DictState"
    state_module: str = "umbel.context.state_store"
    state_data: Any = None


class Snapshot(BaseModel):
    """A whole context: its state, and for a run that has not ended all its unfinished work.

    Attributes:
        version: 2.
        state: None (written as `{}`) if it is unknown.
        is_running: Whether a run continues from here. If not, the next run begins with a start event.
        workers: Unfinished work by step name. A missing step has none.
        stream_seq: Number of fan-outs so far; their ids derive from it.
        work_item_seq: Number of work items so far; their ids derive from it.
        deliveries: Sent events that are still being delivered.
        streams: Open fan-outs by their ids.
        collection_release_states: By `stream_id:binding_id`.
        elapsed_alive: Seconds of its time limit that the run has used up.
    """

    model_config = ConfigDict(extra="allow")

    version: int = VERSION
    state: StatePart | None = None
    is_running: bool = False
    workers: dict[str, StepSnapshot] = Field(default_factory=dict)
    stream_seq: int = 0
    work_item_seq: int = 0
    deliveries: list[Delivery] = Field(default_factory=list)
    streams: dict[str, OpenStream] = Field(default_factory=dict)
    collection_release_states: dict[str, Gathering] = Field(default_factory=dict)
    elapsed_alive: float = Field(default=0, ge=0, allow_inf_nan=False)

    @field_validator("state", mode="before")
    @classmethod
    def _no_state(cls, value: Any) -> Any:
        return value or None

    @field_serializer("state")
    def _dump_state(self, state: StatePart | None) -> dict[str, Any]:
        return {} if state is None else state.model_dump()

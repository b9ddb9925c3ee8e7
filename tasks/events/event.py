"""Events: the typed messages between steps, and those that umbel itself publishes about a run.

A class below `Event` declares fields like any pydantic model. Keyword arguments it does not declare are kept as
*dynamic data*, reachable as attributes and like a dict:

    ev = Event(topic="ships", limit=3)
    ev.topic, ev["limit"], "limit" in ev, ev.get("page", 1)

The dict interface shows dynamic data only, never declared fields. Events cross processes as JSON: declared fields as
pydantic writes them, dynamic data as `json_values` does; private attributes are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from ...orchestration.model.envelope import EXACT
from ...orchestration.model.tagged_json import MAX_DEPTH, TAG, NotJson, tagged, to_tagged, to_tagged_object
from ..values.class_names import is_restricted, loaded_class, qualified_name
from ..values.dict_like_model import DictLikeModel
from ..values.exact_reading import read_fields
from ..values.exact_values import write_field, write_fields
from ..values.field_values import construct, digest_of
from ..values.json_values import dump_model, from_json_value, load_model, to_json_object, write_value
from ..values.plain_fields import plain_fields
from .exceptions import UnreconstructedException, decode_exception, encode_exception

__all__ = [
    "CollectionReleaseEvent",
    "DictLikeModel",
    "Event",
    "EventType",
    "HumanResponseEvent",
    "IdleReleasedEvent",
    "InputRequiredEvent",
    "InternalDispatchEvent",
    "RunResultT",
    "StartEvent",
    "StepFailedEvent",
    "StopEvent",
    "StopEventT",
    "UnreconstructedException",
    "WorkflowCancelledEvent",
    "WorkflowFailedEvent",
    "WorkflowTimedOutEvent",
]


D = TypeVar("D", bound=DictLikeModel)


class Event(DictLikeModel):
    """The root of all events. Subclasses declare fields; further keyword arguments become dynamic data."""


class StartEvent(Event):
    """Begins a run. `workflow.run(topic="ships")` makes one with these fields or dynamic data."""


class StopEvent(Event):
    """Ends the run; the first one wins.

    `StopEvent(result=value)` (or `StopEvent(value)`) gives `await handler` that value. For a subclass the event itself
    is the result, so declared, typed results belong there.

    The attribute `result` is the value passed, or None. A subclass may declare a field of that name, or override
    `_get_result` to compute it.
    """

    _kept_private: ClassVar[Mapping[str, str]] = {"result": "_result"}
    _result: Any = PrivateAttr(default=None)

    def __init__(self, result: Any = None, /, **fields: Any) -> None:
        """Make the event that ends the run.

        Args:
            result: What `await handler` returns; also possible by name.
            **fields: Declared fields and dynamic data.
        """
        super().__init__(**({"result": result} if result is not None else {}), **fields)

    # Validation may skip this method: nothing is lost when it fills the fields directly.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    if TYPE_CHECKING:

        @property
        def result(self) -> Any:
            """The result of the run."""

    def _get_result(self) -> Any:
        """The value of the attribute `result`; may be overridden."""
        return self._result

    def __getattr__(self, name: str) -> Any:
        # Not a property, so that a subclass may declare a field of this name.
        return self._get_result() if name == "result" else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        undeclared_result = name == "result" and name not in type(self).model_fields
        super().__setattr__("_result" if undeclared_result else name, value)

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        dumped = super()._dump(handler, info)
        if self._result is not None and "result" not in (info.exclude or ()):
            dumped["result"] = self._result
        return dumped

    def __repr__(self) -> str:
        shown = dict(self._data)
        shown.update((name, getattr(self, name)) for name in type(self).model_fields)
        if self._result is not None:
            shown["result"] = self._result
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def __str__(self) -> str:
        return str(self.result)


class InputRequiredEvent(Event):
    """Asks a human for input: returned by a step, it is also published. Nothing has to consume it."""


class HumanResponseEvent(Event):
    """A human's answer, sent from outside. No step has to produce it."""


def _as_exception(value: Any) -> Exception:
    if isinstance(value, Exception):
        return value
    if isinstance(value, dict):
        return decode_exception(value)
    raise ValueError(f"expected an exception or the result of encode_exception, got {type(value).__qualname__}")


SerializableException = Annotated[
    Exception, PlainValidator(_as_exception), PlainSerializer(encode_exception, return_type=dict[str, Any])
]


class WorkflowTimedOutEvent(StopEvent):
    """The run did not end in time.

    Attributes:
        timeout: The limit, in seconds.
        active_steps: Steps that were running when it passed.
    """

    timeout: float
    active_steps: list[str]


class WorkflowCancelledEvent(StopEvent):
    """The run was cancelled."""


class WorkflowFailedEvent(StopEvent):
    """The run failed: a step's failure was final, or a stream could never close.

    Attributes:
        step_name: The step that failed.
        exception: What it raised; in dumps `{"exception_type": …, "exception_message": …}`.
        attempts: Attempts made; None if it was not a step's own failure.
        elapsed_seconds: From the first attempt to the failure; None in the same case.
    """

    step_name: str
    exception: SerializableException
    attempts: int | None = None
    elapsed_seconds: float | None = None


class IdleReleasedEvent(StopEvent):
    """The run was unloaded while it waits. LlamaIndex Workflows has this class; umbel never publishes it."""


class SleepEndedEvent(Event):
    """The event that a step in `ctx.sleep` waits for. It never arrives: the wait ends by timeout. Internal to umbel."""


class InternalDispatchEvent(Event):
    """The root of events that report a run's progress; streams show them only with `expose_internal=True`."""


_OWN_MODULES = frozenset({__name__, f"{__package__}.run_events"})


def event_name(cls: type[Event]) -> str:
    """The wire name of an event class: `umbel.StopEvent` for umbel's own event modules, else `module.qualname`."""
    return f"umbel.{cls.__qualname__}" if cls.__module__ in _OWN_MODULES else qualified_name(cls)


def loaded_event(name: str) -> type[Event] | None:
    """The event class of this wire name, if it is built in or loaded here; never imports."""
    return BUILT_IN_EVENTS.get(name) or loaded_class(name, Event)


def event_to_json(event: Event) -> dict[str, Any]:
    """The event as strict JSON that restores exactly: declared fields, `_data` and a StopEvent's `result`.

    Raises:
        NotJson: A value cannot be sent.
    """
    return model_to_json(event, write_value)


def model_to_json(
    model: DictLikeModel, write: Callable[[Any], Any], tags: Collection[str] = (TAG,), deepest: float = MAX_DEPTH
) -> dict[str, Any]:
    """Like `event_to_json`, for any model with dynamic data; `to_tagged` writes its values with these arguments.

    Raises:
        NotJson: A value cannot be written.
    """
    value = _declared(model)
    if isinstance(model, StopEvent) and model._result is not None:
        try:
            value["result"] = to_tagged(model._result, write, tags, deepest)
        except NotJson as flaw:
            flaw.inside("result")
            raise
    if model._data:
        value["_data"] = to_tagged_object(model._data, write, tags, deepest)
    return value


def _declared(model: DictLikeModel) -> dict[str, Any]:
    cls = type(model)
    known, fields = plain_fields(cls), model.__dict__
    if known.fit(fields):
        if not known.others:
            return {name: fields[name] for name, _ in known.scalars}
    elif cls.__module__ != __name__:
        value, marks = write_fields(model)
        value[EXACT] = {"v": digest_of(cls), "in": marks}
        return value
    undeclared = {*model._data, *(() if "result" in cls.model_fields else ("result",))}
    return dump_model(model, exclude=undeclared)


def fields_to_json(cls: type[Event], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields and dynamic data as they appear in the JSON of an event of this class.

    Raises:
        NotJson: An event cannot have one of the values.
    """
    declared = {name: value for name, value in values.items() if name in cls.model_fields}
    wanted = to_json_object({name: value for name, value in values.items() if name not in declared})
    for name, value in declared.items():
        try:
            wanted[name], _ = write_field(construct(cls, {name: value}), name)
        except NotJson as flaw:
            flaw.inside(name)
            raise
    return {name: wanted[name] for name in values}


def event_from_json(cls: type[D], value: dict[str, Any], read: Callable[[Any], Any] = from_json_value) -> D:
    """The inverse of `event_to_json`, and of `model_to_json` with the `read` that belongs to its `write`.

    Raises:
        pydantic.ValidationError: A value no longer fits its class.
        Exception: What code of the class raised.
    """
    exact = value.get(EXACT)
    if isinstance(exact, dict) and not is_restricted():
        kept = issubclass(cls, StopEvent) and "result" not in cls.model_fields
        apart = {EXACT, "_data", *(("result",) if kept else ())}
        declared = {name: each for name, each in value.items() if name not in apart}
        dynamic = {name: read(each) for name, each in value.get("_data", {}).items()}
        result = read(value["result"]) if kept and "result" in value else None
        return read_fields(cls, declared, exact.get("in", {}), exact.get("v"), dynamic, result)
    model = load_model(cls, {name: each for name, each in value.items() if name != EXACT})
    restore_tagged(model, read, value.get("_data") or ())
    return model


def restore_tagged(
    model: DictLikeModel, read: Callable[[Any], Any] = from_json_value, names: Collection[str] | None = None
) -> None:
    """Restore tagged values in a model that was just built from the result of `model_to_json`, in place.

    Args:
        model: The model.
        read: Makes a value of tagged JSON.
        names: The dynamic data that were tagged; None for all. A field that only the sender's class declares was never
            tagged.

    Raises:
        pydantic.ValidationError: A tagged value no longer fits its class.
    """
    model._data.update({name: read(value) for name, value in model._data.items() if names is None or name in names})
    if isinstance(model, StopEvent):
        model._result = read(model._result)


def _tagged_event(event: Event) -> dict[str, Any]:
    return tagged(event_name(type(event)), event_to_json(event))


def _as_event(value: Any) -> Event:
    """An event, from itself, from a tagged dict, or from an envelope (`type` instead of `qualified_name`)."""
    if isinstance(value, Event):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("value"), dict):
        raise ValueError(f"expected an event, or an event as tagged JSON, got {type(value).__qualname__}")
    name = str(value.get("qualified_name") or value.get("type"))
    cls = loaded_event(name)
    if cls is None:
        raise ValueError(f"the event class {name!r} is not loaded in this process")
    return event_from_json(cls, value["value"])


SerializableEvent = Annotated[
    Event, PlainValidator(_as_event), PlainSerializer(_tagged_event, return_type=dict[str, Any])
]


class CollectionReleaseEvent(Event):
    """The input of a step with a `list[E]` parameter; seen only as `StepFailedEvent.input_event`.

    Attributes:
        events: The gathered events, in order of arrival.
        stream_id: The fan-out they come from.
        binding_id: The parameter that gathers them.
    """

    events: list[SerializableEvent] = Field(default_factory=list)
    stream_id: str = ""
    binding_id: str = ""


class StepFailedEvent(Event):
    """A step's failure is final: handed to the `@catch_error` step that covers it.

    Attributes:
        step_name: The step that failed.
        input_event: The event it failed on.
        exception: What it raised in the last attempt, without traceback.
        attempts: Attempts made.
        elapsed_seconds: From the first attempt to the failure.
        failed_at: When it failed, in UTC.
    """

    step_name: str
    input_event: SerializableEvent
    exception: SerializableException
    attempts: int
    elapsed_seconds: float
    failed_at: datetime


#: The event classes of this module by their wire names.
BUILT_IN_EVENTS: dict[str, type[Event]] = {
    event_name(cls): cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, Event)
}


#: For code that is generic over events.
EventType = type[Event]
#: For code that is generic over workflows: the class of the event a run ends with, and what awaiting a run returns.
StopEventT = TypeVar("StopEventT", bound=StopEvent)
RunResultT = TypeVar("RunResultT")

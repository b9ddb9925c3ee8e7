"""Which steps run inside which fan-out: the analysis behind joins and behind two rules of validation.

A step that returns a list opens a *stream* for its elements. Everything that follows from an element, step by step,
happens at the *level* of that stream, until a `collect` step gathers it. Each `collect` step at the level of a stream
is called once, with the stream's whole list, and the event it returns belongs to the level of the step that opened the
stream.

    split(StartEvent) -> list[Page]
    scan(Page) -> list[Line]                # opens a stream inside each of split's
    read(Line) -> Word
    count(list[Word]) -> Total              # gathers the events at the level of scan
    report(list[Total]) -> StopEvent        # gathers the events at the level of split

Level of `scan`: Line and Word; `count` collects there. Level of `split`: Page, and, because `scan` runs there, the
event that `count` returns: Total; `report` collects there. So `scan` joins at `count`, and `split` joins at `report`.

The rules for the level of one fan-out step; `TOP` starts with the start event and human responses instead:

1. The classes inside its `list[…]` are at the level.
2. A step whose event is at the level runs there, and its single returns are at the level. An `all_of` step runs there
   once all its parameters can be filled there.
3. The `collect` steps of a fan-out step that runs there run there too; its list elements are at a separate level.
4. The `@catch_error` handler of a step that runs there runs there too.
5. A `collect` step whose event is at the level collects there, which does not mean that it runs there.

All levels are found together by applying the rules until nothing changes, which also handles cycles of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..events.event import Event, HumanResponseEvent, StartEvent
from ..steps.decorators import StepConfig

#: The level outside all fan-outs. Not a Python identifier, so no step can have this name.
TOP = "<top>"


@dataclass
class FanOutLevel:
    """What can happen at one level.

    Attributes:
        events: Event classes that can occur.
        runs: Steps that can run.
        collects: `collect` steps that gather events of this level.
    """

    events: set[type[Event]]
    runs: set[str] = field(default_factory=set)
    collects: set[str] = field(default_factory=set)

    def size(self) -> int:
        """The number of facts found; it only ever grows."""
        return len(self.events) + len(self.runs) + len(self.collects)


def fan_out_levels(steps: Mapping[str, StepConfig]) -> dict[str, FanOutLevel]:
    """The level of each fan-out step by the step's name, and the level outside all of them as `TOP`."""
    levels = {TOP: FanOutLevel(set(_arriving(steps.values())))}
    levels.update(
        {name: FanOutLevel(set(config.list_returns)) for name, config in steps.items() if config.list_returns}
    )
    handlers = handler_by_step(steps)
    known = -1
    while known != (known := sum(level.size() for level in levels.values())):
        for level in levels.values():
            _grow(level, levels, steps, handlers)
    return levels


def handler_by_step(steps: Mapping[str, StepConfig]) -> dict[str, str]:
    """The `@catch_error` handler of each covered step: the one that names it, else the one that covers the rest."""
    handlers = {name: config.recovers for name, config in steps.items() if config.recovers}
    named = {covered: name for name, recovers in reversed(handlers.items()) for covered in recovers}
    found = {name: named.get(name, named.get("*")) for name in steps if name not in handlers}
    return {name: handler for name, handler in found.items() if handler is not None}


def _arriving(steps: Iterable[StepConfig]) -> Iterable[type[Event]]:
    """The event classes that reach a run from outside."""
    for config in steps:
        yield from (event for event in config.accepted_events if issubclass(event, StartEvent | HumanResponseEvent))


def _grow(
    level: FanOutLevel,
    levels: Mapping[str, FanOutLevel],
    steps: Mapping[str, StepConfig],
    handlers: Mapping[str, str],
) -> None:
    for name, config in steps.items():
        filled = [
            any(config.matches(event, accepted) for event in level.events for accepted in parameter.accepts)
            for parameter in config.event_parameters
        ]
        if all(filled):
            (level.collects if config.kind == "collect" else level.runs).add(name)
    for name in tuple(level.runs):
        level.events.update(steps[name].single_returns)
        if name in levels:
            level.runs |= levels[name].collects
        if name in handlers:
            level.runs.add(handlers[name])

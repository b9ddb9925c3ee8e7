"""Steps that tag a scope, as error trackers do: an object in a context variable, created when there is none."""

from __future__ import annotations

from contextvars import ContextVar

from umbel import Event, StartEvent, StopEvent, Workflow, step

_scope: ContextVar[dict[str, str]] = ContextVar("scope")
_scope.set({})  # the scope of the thread that loads the workflows


def tagged(tag: str) -> dict[str, str]:
    """Add a tag and return all tags."""
    scope = _scope.get(None)
    if scope is None:
        scope = {}
        _scope.set(scope)
    scope[tag] = "set"
    return dict(scope)


class Second(Event):
    pass


class Tagging(Workflow):
    """Returns the tags of its second step."""

    @step
    async def first(self, ev: StartEvent) -> Second:
        tagged(f"first of {ev.n}")
        return Second(n=ev.n)

    @step
    async def second(self, ev: Second) -> StopEvent:
        return StopEvent(result=tagged(f"second of {ev.n}"))

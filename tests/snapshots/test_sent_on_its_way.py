"""Snapshots of LlamaIndex Workflows 2.26: events that were sent but not delivered, and states as checkpoints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from umbel import Context, Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, step


@pytest.fixture(autouse=True)
def default_runtime(runtime: Any) -> None:
    """Make the session's deployment the default runtime of every test here."""


class Part(Event):
    n: int


class Other(Event):
    n: int


class Added(Event):
    n: int


class Paired(Event):
    values: list[Any]


class Adding(Workflow):
    """Accepts two single parts, and a pair."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Part | Other | None:
        return None

    @step
    async def one(self, ev: Part) -> Added:
        return Added(n=ev.n)

    @step
    async def pair(self, ctx: Context, part: Part, other: Other) -> Paired:
        answer = await ctx.wait_for_event(HumanResponseEvent)
        return Paired(values=[part.n, other.n, answer.get("text"), await ctx.store.get("kept", default=None)])

    @step
    async def end(self, ctx: Context, ev: Added | Paired) -> StopEvent | None:
        got = ctx.collect_events(ev, [Added, Added, Paired])
        return got and StopEvent(result=[sorted(added.n for added in got[:2]), got[2].values])


def text(event: str, **value: Any) -> str:
    return json.dumps({"__is_pydantic": True, "value": value, "qualified_name": f"{__name__}.{event}"})


def snapshot(*deliveries: dict[str, Any], state: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a run with nothing left but undelivered events."""
    sent = [{"invocation_id": "i1", "index": i} | delivery for i, delivery in enumerate(deliveries)]
    return {"version": 2, "is_running": True, "state": state or {}, "workers": {}, "deliveries": sent}


def resumed(data: dict[str, Any]) -> Any:
    workflow = Adding(timeout=20)
    return workflow.run(ctx=Context.from_dict(workflow, data))


async def test_what_was_sent_reaches_its_steps_and_its_joins() -> None:
    handler = resumed(
        snapshot(
            {"event": text("Part", n=1), "step_id": None},
            {"event": text("Part", n=2), "step_id": "one"},
            {"event": text("Other", n=3), "step_id": None},
            {
                "event": json.dumps(
                    {
                        "__is_pydantic": True,
                        "value": {"_data": {"text": "early"}},
                        "qualified_name": "workflows.events.HumanResponseEvent",
                    }
                ),
                "step_id": None,
            },
        )
    )
    assert await handler == [[1, 2], [1, 3, "early", None]]


class Kept(BaseModel):
    x: int


async def test_a_state_whose_values_are_json_is_read() -> None:
    kept = {"__is_pydantic": True, "value": {"x": 5}, "qualified_name": f"{__name__}.Kept"}
    part = {
        "store_type": "in_memory",
        "state_type": "DictState",
        "state_module": "workflows.context.state_store",
        "state_data": {"_tree": "dict", "_data": {"kept": kept, "list": [1, {"a": None}]}},
    }
    workflow = Adding()
    ctx = Context.from_dict(workflow, {"version": 2, "is_running": False, "state": part, "workers": {}})
    assert await ctx.store.get("kept") == Kept(x=5)
    assert await ctx.store.get("list") == [1, {"a": None}]

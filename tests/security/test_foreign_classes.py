"""Client data creates only objects that the workflow declares: events, start events, snapshots."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

import umbel
from support.http.flows import Answer, Asked
from umbel import (
    Context,
    ContextSerdeError,
    Event,
    HumanResponseEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    catch_error,
    step,
)
from umbel.context import JsonSerializer
from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.model.tagged_json import TAG
from umbel.server import WorkflowServer
from umbel.tasks.events.codec import EventRegistry, decode_event
from umbel.tasks.snapshots.event_texts import with_digest

made: list[str] = []


class Secretive(BaseModel):
    """A model that is loaded in the server's process but declared by no workflow, like a settings class."""

    token: str = "hunter2"

    def model_post_init(self, _: Any) -> None:
        made.append(type(self).__name__)


class SecretiveError(Exception):
    def __init__(self, *arguments: Any) -> None:
        made.append(type(self).__name__)
        super().__init__(*arguments)


class Note(HumanResponseEvent):
    """Accepted by a step; takes anything."""

    text: Any = None


class Begun(StartEvent):
    text: Any = None


class Guarded(Workflow):
    """Waits for a note; has an error handler."""

    @step
    async def ask(self, ctx: Context, ev: Begun) -> StopEvent:
        answer = await ctx.wait_for_event(Answer, waiter_event=Asked(question="?"))
        return StopEvent(result=answer.text)

    @step
    async def note(self, ctx: Context, ev: Note) -> StopEvent:
        return StopEvent(result={"text": ev.text, "more": ev.to_dict()})

    @catch_error
    async def handle(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result=f"handled {ev.exception!r} of {ev.input_event!r}")


@pytest.fixture
async def http(runtime: Any) -> AsyncIterator[httpx.AsyncClient]:
    made.clear()
    server = WorkflowServer(runtime=runtime, accept_context_api=True)
    server.add_workflow("guarded", Guarded(timeout=None), additional_events=[Answer])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://localhost") as client:
        yield client
    await server.stop()


def named(cls: type, value: Any) -> dict[str, Any]:
    return {TAG: True, "value": value, "qualified_name": f"{__name__}.{cls.__name__}"}


FAILURE = {
    "step_name": "ask",
    "input_event": {"qualified_name": "umbel.StartEvent", "value": {"_data": {"x": named(Secretive, {})}}},
    "exception": {"exception_type": f"{__name__}.SecretiveError", "exception_message": "x", "exception_args": ["x"]},
    "attempts": 1,
    "elapsed_seconds": 0.0,
    "failed_at": "2026-01-01T00:00:00Z",
}


async def begin(http: httpx.AsyncClient, **body: Any) -> str:
    answer = await http.post("/workflows/guarded/run-nowait", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["handler_id"])


@pytest.mark.parametrize(
    ("event", "value"),
    [
        ("umbel.StepFailedEvent", FAILURE),
        ("umbel.StopEvent", {"result": "forged"}),
        ("umbel.WorkflowCancelledEvent", {}),
        ("umbel.WorkflowFailedEvent", {"step_name": "ask", "exception": FAILURE["exception"]}),
        ("umbel.StepStateChanged", {}),
        ("umbel.CollectionReleaseEvent", {"events": [FAILURE["input_event"]]}),
    ],
)
async def test_a_client_cannot_send_an_event_that_only_umbel_makes(
    http: httpx.AsyncClient, event: str, value: Any
) -> None:
    handler_id = await begin(http)
    for sent in (
        {"type": event.rpartition(".")[2], "value": value},
        {"type": "x", "qualified_name": event, "value": value},
        {"qualified_name": f"workflows.events.{event.rpartition('.')[2]}", "value": value},
    ):
        answer = await http.post(f"/events/{handler_id}", json={"event": sent})
        assert answer.status_code == 400, answer.text
        assert "Expected one of" in answer.text or "not declared" in answer.text
        answer = await http.post(f"/console/runs/{handler_id}/send", json=sent)
        assert answer.status_code == 400, answer.text
        answer = await http.post("/workflows/guarded/run-nowait", json={"start_event": sent | {"type": event}})
        assert answer.status_code == 400, answer.text

    assert made == []
    await http.post(f"/handlers/{handler_id}/cancel")


async def test_what_a_client_tags_arrives_as_the_data_it_is(http: httpx.AsyncClient) -> None:
    handler_id = await begin(http, start_event={"text": named(Secretive, {}), "x": named(Secretive, {})})
    value = {"text": named(Secretive, {}), "_data": {"x": named(Secretive, {}), "y": [named(SecretiveError, {})]}}
    answer = await http.post(f"/events/{handler_id}", json={"event": {"type": "Note", "value": value}})
    assert answer.status_code == 200, answer.text

    async with httpx.AsyncClient(transport=http._transport, base_url="http://localhost") as again:
        events = await again.get(f"/events/{handler_id}?after_sequence=-1&sse=false", timeout=20)
    result = json.loads(events.text.splitlines()[-1])["value"]["result"]

    assert result == {"text": named(Secretive, {}), "more": value["_data"]}
    assert made == []


async def test_a_program_cannot_send_an_event_that_only_umbel_makes_either(http: httpx.AsyncClient) -> None:
    handler = Guarded(timeout=None).run(text="x")

    with pytest.raises(WorkflowRuntimeError, match="only umbel creates such events"):
        await handler.send_event(StepFailedEvent.model_validate(FAILURE | {"input_event": StartEvent()}))
    await handler.cancel()


def test_a_field_that_only_the_senders_class_declares_is_never_taken_for_a_tagged_value() -> None:
    made.clear()
    payload = json.dumps({"text": named(Secretive, {}), "_data": {"y": 1}}).encode()

    event = decode_event(Envelope("umbel.Event", (), payload), EventRegistry.of())

    assert event["text"] == named(Secretive, {})
    assert made == []


class Owner(BaseModel):
    name: str


class Keeping(Workflow):
    """Keeps an object in its state."""

    @step
    async def keep(self, ctx: Context, ev: Begun) -> Note:
        await ctx.store.set("owner", Owner(name="Ada"))
        return Note(text=ev.text, note=ev.get("note"))

    @step
    async def show(self, ctx: Context, ev: Note) -> StopEvent:
        return StopEvent(result=[repr(await ctx.store.get("owner")), ev.text, ev.get("note")])


async def test_edits_of_a_run_that_goes_on_make_nothing_that_its_state_has_no_value_of(runtime: Any) -> None:
    server = WorkflowServer(runtime=runtime)
    server.add_workflow("keeping", Keeping())
    made.clear()
    evil = named(Secretive, {})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://localhost") as http:
        begun = await http.post("/workflows/keeping/run", json={"start_event": {"text": 1, "note": "x"}})
        run = f"/runs/{begun.json()['run_id']}"
        for state in ({"x": [evil]}, {"owner": evil}, [{"op": "add", "path": "/owner/value/name", "value": evil}]):
            for body in ({"point": "before show", "state": state}, {"seq": 4, "state": state}):
                for way in (f"{run}/fork", f"{run}/rewind", f"/console{run}/fork", f"/console{run}/rewind"):
                    answer = await http.post(way, json=body)
                    assert answer.status_code in (400, 409), answer.text
        renamed = [{"op": "replace", "path": "/owner/value/name", "value": "Bob"}]
        events = {"show": {"text": evil, "note": [evil]}}
        forked = await http.post(f"{run}/fork", json={"point": "before show", "state": renamed, "events": events})

    assert await umbel.attach(forked.json()["run_id"]) == ["Owner(name='Bob')", evil, [evil]]
    assert made == []
    await server.stop()


# -- snapshots -------------------------------------------------------------------------------------------------------


async def waiting_snapshot() -> dict[str, Any]:
    handler = Guarded(timeout=None).run(text="x")
    async for event in handler.stream_events():
        if isinstance(event, Asked):
            break
    data: dict[str, Any] = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.cancel()
    return data


async def test_a_clients_snapshot_is_restored(http: httpx.AsyncClient) -> None:
    handler_id = await begin(http, context=await waiting_snapshot())
    answer = await http.post(f"/events/{handler_id}", json={"event": {"type": "Answer", "value": {"text": "yes"}}})

    assert answer.status_code == 200, answer.text


def _event(data: dict[str, Any], text: Any) -> dict[str, Any]:
    data["workers"]["note"]["queue"] = [{"event": json.dumps(text)}]
    return data


def _waits_for(data: dict[str, Any], name: str) -> dict[str, Any]:
    data["workers"]["ask"]["collected_waiters"][0]["waiting_for_event"] = name
    return data


HOSTILE: dict[str, Any] = {
    "an event of another class": lambda data: _event(data, named(Event, {})),
    "a model where an event belongs": lambda data: _event(data, named(Secretive, {})),
    "a model inside an event": lambda data: _event(data, named(Note, {"_data": {"x": named(Secretive, {})}})),
    "a failure": lambda data: _event(data, {TAG: True, "qualified_name": "umbel.StepFailedEvent", "value": FAILURE}),
    "a value in the state": lambda data: (
        data | {"state": data["state"] | {"state_data": {"_data": {"x": json.dumps(named(Secretive, {}))}}}}
    ),
    "the state itself": lambda data: data | {"state": data["state"] | {"state_data": json.dumps(named(Secretive, {}))}},
    "the class that a step waits for": lambda data: _waits_for(data, "umbel.StepFailedEvent"),
    "nothing where umbel puts the rest": lambda data: (
        data | {"workers": data["workers"] | {"ask": data["workers"]["ask"] | {"umbel": 5}}}
    ),
}


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_a_snapshot_from_a_client_makes_nothing_that_the_workflow_does_not_declare(
    http: httpx.AsyncClient, hostile: str
) -> None:
    data = with_digest(HOSTILE[hostile](copy.deepcopy(await waiting_snapshot())))

    answer = await http.post("/workflows/guarded/run-nowait", json={"context": data})

    assert answer.status_code == 400, answer.text
    assert "Error processing request body" in answer.text
    assert made == []


async def test_the_exception_of_an_earlier_attempt_is_text_in_a_snapshot_from_a_client(runtime: Any) -> None:
    made.clear()
    data = await waiting_snapshot()
    text = json.dumps(named(Note, {}))
    data["workers"]["note"]["queue"] = [{"event": text, "last_exception": FAILURE["exception"], "attempts": 1}]
    serializer = JsonSerializer(allowed_types=[Begun, Note, Answer])

    context = Context.from_dict(Guarded(timeout=None), with_digest(data), serializer)

    assert context.is_running
    assert made == []
    (item,) = [each for each in context._face.snapshot.items if each.step == "note"]  # type: ignore[union-attr]
    assert json.loads(item.last_error or b"") == {
        "exception_type": "",
        "exception_message": f"{__name__}.SecretiveError: x",
    }


async def test_leaving_out_what_umbel_wrote_does_not_avoid_the_digest(http: httpx.AsyncClient) -> None:
    data = await waiting_snapshot()
    del data["umbel"]

    with pytest.raises(ContextSerdeError, match="nothing says whether the rest is intact"):
        Context.from_dict(Guarded(timeout=None), data)
    answer = await http.post("/workflows/guarded/run-nowait", json={"context": data})
    assert answer.status_code == 400

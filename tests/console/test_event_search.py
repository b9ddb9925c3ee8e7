"""Searching runs by the contents of their events, and executions that send events before their end."""

from __future__ import annotations

import asyncio
from typing import Any

from playwright.sync_api import Page, expect

from support.console.driving import Site
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.orchestration.inspection.content.event_search import runs_with
from umbel.orchestration.inspection.run_list import RunQuery
from umbel.orchestration.inspection.work_detail import WorkDetail, read_work
from umbel.orchestration.store.journal import entries
from umbel.tasks.client.runtime import Runtime

#: The events that have arrived.
ARRIVED: set[str] = set()


class Parcel(Event):
    note: str


class Sender(Workflow):
    """Sends an event, and ends after it has arrived."""

    @step
    async def send(self, ctx: Context, ev: StartEvent) -> Parcel | StopEvent:
        ctx.write_event_to_stream(Event(label=f"label {ev.word}"))
        ctx.send_event(Parcel(note=f"Straße “{ev.word}”"))
        while ev.word not in ARRIVED:
            await asyncio.sleep(0.01)
        return StopEvent(result="sent")

    @step
    async def take(self, ev: Parcel, ctx: Context) -> None:
        ARRIVED.add(ev.note.partition("“")[2].rstrip("”"))


def found(deployment: Runtime, text: str, **query: Any) -> dict[str, str]:
    page, events = deployment.portal.call(runs_with(deployment.store, RunQuery(**query), text))
    assert {run.run_id for run in page.runs} == set(events)
    return {run_id: event.type.rpartition(".")[2] for run_id, event in events.items()}


def test_runs_are_found_by_what_their_events_contain(deployment: Runtime, word: str) -> None:
    run = Sender().run(word=word)
    run.result(20)
    Sender().run(word=f"{word[::-1]}").result(20)

    assert found(deployment, f"STRASSE “{word}".replace("STRASSE", "straße")) == {run.run_id: "Parcel"}
    assert found(deployment, f"label {word}") == {run.run_id: "Event"}
    assert found(deployment, word.upper()) == {run.run_id: "StartEvent"}
    assert found(deployment, word, statuses=("failed",)) == {}
    assert found(deployment, f"{word} and more") == {}


def test_an_execution_that_has_sent_an_event_early_shows_where_it_went(deployment: Runtime, word: str) -> None:
    run = Sender().run(word=word)
    run.result(20)

    async def details() -> dict[str, WorkDetail]:
        items = [entry.work_id async for entry in entries(deployment.store, run.run_id) if entry.kind == "commit"]
        read = [await read_work(deployment.store, run.run_id, item) for item in items]
        return {each.executions[0].step: each for each in read}

    shown = deployment.portal.call(details())
    [sent] = [each for each in shown["send"].emitted if each.name.endswith("Parcel")]
    [given] = shown["take"].given
    assert [link.step for link in sent.links] == ["take"]
    assert [link.step for link in given.links] == ["send"]
    assert given.event is not None
    assert word.encode() in given.event.payload


def test_the_list_shows_the_event_that_contains_what_is_searched_for(page: Page, site: Site, word: str) -> None:
    wanted = site.start("talk", text=f"hello {word}")
    site.await_status(wanted, "completed")
    page.goto(f"#/runs?content={word}&workflow=talk")
    rows = page.locator("table.runs tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.locator(".found")).to_contain_text(word)
    expect(page.get_by_label("Event content")).to_have_value(word)

    page.get_by_label("Event content").fill(f"{word} nowhere")
    expect(page.get_by_text("No matching runs.")).to_be_visible()
    assert f"content={word}+nowhere" in page.evaluate("location.hash")

"""The console page in a real browser: a run from its form to its result, and everything in between."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from support.console.driving import Site
from support.eventually import eventually

TRIP = {"city": "Oslo", "traveller": {"name": "Ada"}}


def start_booking(page: Page, city: str = "Oslo") -> str:
    """Start a run with the form and return its id."""
    page.goto("#/workflows/booking")
    page.get_by_label("city").fill(city)
    page.get_by_role("textbox", name="name").fill("Ada")
    page.get_by_role("button", name="Start a run").click()
    page.wait_for_url(re.compile("#/runs/"))
    return page.url.rpartition("/")[2]


def answer(page: Page, by: str = "Grace") -> None:
    """Approve the open question."""
    page.get_by_role("radio", name="Yes").check()
    page.get_by_label("by").fill(by)
    page.get_by_role("button", name="Answer", exact=True).click()


def badge(page: Page) -> Locator:
    """Return the badge with the run's status."""
    return page.locator(".run-facts .badge")


def test_a_run_is_started_watched_answered_and_its_result_shown(page: Page) -> None:
    start_booking(page)
    expect(page.get_by_role("heading", name="Book Aurora?")).to_be_visible()
    expect(page.get_by_text("looking for hotels in Oslo")).to_be_visible()
    expect(page.locator("[data-step=ask]")).to_have_attribute("data-state", "waiting")
    expect(page.locator("[data-step=check]")).to_contain_text("3 done")
    answer(page)
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    expect(page.locator(".outcome")).to_contain_text('hotel: "Aurora"')
    expect(badge(page)).to_contain_text("completed")
    expect(page.get_by_role("heading", name="Book Aurora?")).to_have_count(0)


def test_steps_are_lit_while_they_run_and_wait_for_a_slot(page: Page, gates: set[str]) -> None:
    gates |= {"check Aurora", "check Bristol"}
    start_booking(page)
    check = page.locator("[data-step=check]")
    expect(check).to_have_attribute("data-state", "running")
    expect(check).to_contain_text("2 running")
    expect(page.locator("[data-step=choose]")).to_have_attribute("data-state", "idle")
    gates.clear()
    expect(check).to_have_attribute("data-state", "done")


def test_a_reload_in_mid_run_loses_nothing(page: Page, gates: set[str]) -> None:
    gates.add("check Aurora")
    run_id = start_booking(page)
    rows = page.locator(".events li")
    expect(page.get_by_text("Bristol has a room")).to_be_visible()
    expect(page.get_by_text("Central has a room")).to_be_visible()
    before = rows.all_inner_texts()
    page.reload()
    expect(page.locator(".run-id-line")).to_contain_text(run_id)
    expect(rows).to_have_count(len(before))
    assert rows.all_inner_texts() == before
    gates.clear()
    expect(page.get_by_role("heading", name="Book Aurora?")).to_be_visible()
    page.reload()
    answer(page)
    expect(badge(page)).to_contain_text("completed")
    expect(rows.last).to_contain_text("StopEvent")
    texts = rows.all_inner_texts()
    assert len(texts) == len(set(texts)), "an event is shown twice"


def test_a_tab_that_nobody_looks_at_holds_no_connection_and_misses_nothing(
    page: Page, site: Site, gates: set[str]
) -> None:
    def look(is_hidden: bool) -> None:
        hidden = "true" if is_hidden else "false"
        page.evaluate(f"Object.defineProperty(document, 'hidden', {{configurable: true, get: () => {hidden}}})")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    gates.add("check Aurora")
    run_id = site.start("booking", **TRIP)
    page.goto(f"#/runs/{run_id}")
    expect(page.get_by_text("Central has a room")).to_be_visible()
    look(True)
    eventually(lambda: site.server.deployment.readers == 0, "the stream is given back")
    gates.clear()
    eventually(lambda: site.get(f"console/runs/{run_id}").json()["questions"], "the run has gone on")
    expect(page.get_by_text("Aurora has a room")).to_have_count(0)
    look(False)
    expect(page.get_by_text("Aurora has a room")).to_be_visible()
    expect(page.locator(".events li").last).to_contain_text("Question")
    texts = page.locator(".events li").all_inner_texts()
    assert len(texts) == len(set(texts)) == 5
    site.post(f"console/runs/{run_id}/cancel")


def test_a_half_written_answer_stays_while_the_run_continues(page: Page, site: Site) -> None:
    run_id = site.start("booking", **TRIP)
    page.goto(f"#/runs/{run_id}")
    page.get_by_label("by").fill("half writ")
    site.post(f"console/runs/{run_id}/send", {"type": "Chosen", "value": {"hotel": "Bristol"}})  # asks a second time
    expect(page.get_by_role("heading", name="Book Bristol?")).to_be_visible()
    expect(page.get_by_label("by").first).to_have_value("half writ")
    site.post(f"console/runs/{run_id}/cancel")
    expect(badge(page)).to_contain_text("cancelled")


def test_a_question_that_a_step_returned_is_answered_in_place(page: Page) -> None:
    page.goto("#/workflows/quiz")
    page.get_by_label("Fields").fill('{"topic": "rivers"}')
    page.get_by_role("button", name="Start a run").click()
    expect(page.get_by_role("heading", name="Which river?")).to_be_visible()
    page.locator(".question").get_by_label("text").fill("Inn")
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.locator(".outcome")).to_contain_text("Inn")


def test_a_run_is_cancelled(page: Page, gates: set[str]) -> None:
    gates.add("check Aurora")
    start_booking(page)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog", name="Cancel this run?")).to_contain_text("can be retried")
    page.get_by_role("button", name="Cancel run").click()
    expect(badge(page)).to_contain_text("cancelled")
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def test_a_failed_run_is_retried_and_watched_to_its_end(page: Page, site: Site, gates: set[str]) -> None:
    gates.add("bank")
    run_id = site.start("payment", euros=7)
    page.goto(f"#/runs/{run_id}")
    expect(page.get_by_text("RuntimeError('the bank is closed')").first).to_be_visible()
    expect(page.locator("[data-step=charge]")).to_have_attribute("data-state", "failed")
    gates.clear()
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".outcome")).to_contain_text("paid 7")
    expect(badge(page)).to_contain_text("completed")
    expect(page.locator(".events li").last).to_contain_text("StopEvent")


def test_any_event_may_be_sent(page: Page, site: Site) -> None:
    run_id = site.start("quiz")
    page.goto(f"#/runs/{run_id}")
    page.get_by_text("Send an event").click()
    panel = page.locator("details.send")
    expect(panel.get_by_label("Event", exact=True)).to_have_count(0)  # clients may send only this event
    panel.get_by_label("text").fill("Danube")
    panel.get_by_role("button", name="Send Reply").click()
    expect(page.locator(".outcome")).to_contain_text("Danube")


def test_the_timeline_shows_executions_by_worker_as_bars_and_as_a_table(page: Page, site: Site) -> None:
    run_id = site.start("payment", euros=7)
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("tab", name="Timeline").click()
    expect(page.locator(".chart .bar.done")).to_have_count(2)
    expect(page.locator(".chart-labels .worker")).to_have_count(1)
    page.get_by_text("Show as a table").click()
    rows = page.get_by_role("table", name="Executions").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("charge")
    expect(rows.first).to_contain_text("done → Charged")


def test_the_state_is_shown_by_key(page: Page, site: Site) -> None:
    run_id = site.start("quiz", topic="rivers", level=2**63)
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("tab", name="State").click()
    expect(page.locator(".state")).to_contain_text('"rivers"')
    expect(page.locator(".state")).to_contain_text(str(2**63))
    site.post(f"console/runs/{run_id}/cancel")


def test_events_are_filtered_and_opened(page: Page, site: Site) -> None:
    run_id = site.start("booking", **TRIP)
    page.goto(f"#/runs/{run_id}")
    rows = page.locator(".events li")
    expect(rows).to_have_count(5)
    page.get_by_label("Filter events").fill("bristol")
    expect(rows).to_have_count(1)
    rows.first.locator("summary").first.click()
    expect(rows.first.locator(".json")).to_contain_text('text: "Bristol has a room"')
    page.get_by_label("Filter events").fill("")
    page.get_by_label("internal events").check()
    expect(page.get_by_text("StepStateChanged").first).to_be_visible()
    site.post(f"console/runs/{run_id}/cancel")

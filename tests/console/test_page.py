"""The console page in a real browser: what a person does with it, and what it survives."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect


def start_booking(page: Page, city: str = "Oslo") -> str:
    """Start a run from the form and give its id."""
    page.goto("#/workflows/booking")
    page.get_by_label("city").fill(city)
    page.get_by_label("name", exact=False).first.fill("Ada")
    page.get_by_role("button", name="Start a run").click()
    page.wait_for_url(re.compile("#/runs/"))
    return page.url.rpartition("/")[2]


def status(page: Page) -> str:
    """The shown status of the run."""
    return page.locator(".run-facts .badge").inner_text().split()[-1]


def answer(page: Page, by: str = "Grace") -> None:
    """Agree to the open question."""
    page.get_by_label("approved").check()
    page.get_by_label("by").fill(by)
    page.get_by_role("button", name="Answer", exact=True).click()


def test_a_run_is_started_watched_answered_and_its_result_shown(page: Page) -> None:
    start_booking(page)
    expect(page.get_by_role("heading", name="Book Aurora?")).to_be_visible()
    expect(page.get_by_text("looking for hotels in Oslo")).to_be_visible()
    expect(page.locator("[data-step=ask]")).to_have_attribute("data-state", "waiting")
    expect(page.locator("[data-step=check]")).to_contain_text("3 done")
    answer(page)
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    expect(page.locator(".outcome")).to_contain_text('hotel: "Aurora"')
    expect(page.locator(".badge.completed")).to_be_visible()
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
    before = rows.all_inner_texts()
    page.reload()
    expect(page.get_by_role("heading", name=run_id)).to_be_visible()
    expect(rows).to_have_count(len(before))
    assert rows.all_inner_texts() == before
    gates.clear()
    expect(page.get_by_role("heading", name="Book Aurora?")).to_be_visible()
    page.reload()
    answer(page)
    expect(page.locator(".badge.completed")).to_be_visible()
    texts = rows.all_inner_texts()
    assert len(texts) == len(set(texts)), "an event is shown twice"

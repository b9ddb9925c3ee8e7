"""The list of runs in a real browser: rows, filters, keys, and bulk operations."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from support.console.driving import Keep, Site
from support.console.serving import Serving
from support.eventually import eventually
from umbel.tasks.client.runtime import Runtime

TRIP = {"city": "Oslo", "traveller": {"name": "Ada"}}


def test_a_row_leads_with_workflow_and_input_and_says_in_one_line_why_it_failed(
    page: Page, site: Site, gates: set[str], word: str
) -> None:
    gates.add("bank")
    run_id = site.start("payment", euros=71, note=f"rent of {word}")
    site.await_status(run_id, "failed")
    page.goto(f"#/runs?status=failed&q=rent+of+{word}")
    row = page.locator("table.runs tbody tr")
    expect(row).to_have_count(1)
    expect(row.locator("th")).to_have_text(
        f"paymenteuros: 71, note: rent of {word}charge: RuntimeError('the bank is closed')"
    )
    expect(row.locator("td").last).to_have_text(run_id[:8])
    row.click(position={"x": 700, "y": 12})
    expect(page).to_have_url(re.compile(f"#/runs/{run_id}$"))


def test_a_filter_finds_what_rows_show_and_nothing_else(page: Page, site: Site, word: str) -> None:
    asleep = site.start("booking", city=f"Tromsø {word}", traveller={"name": "Ada"})
    eventually(lambda: site.get(f"console/runs/{asleep}").json()["is_asleep"], "it waits")
    rows = page.locator("table.runs tbody tr")
    page.goto(f"#/runs?status=waiting&q={word.upper()}")
    expect(rows).to_have_count(1)
    expect(rows.locator(".badge")).to_contain_text("waiting")
    expect(page.locator("[data-count=waiting]")).not_to_have_text("0")
    page.goto(f"#/runs?status=running&q={word}")
    expect(page.get_by_text("No matching runs.")).to_be_visible()
    page.goto(f"#/runs?since=900&q={word}")
    expect(rows).to_have_count(1)
    page.goto("#/runs?workflow=booking&q=console.flows")  # the module of the workflow, which no row shows
    expect(page.get_by_text("No matching runs.")).to_be_visible()
    site.post(f"console/runs/{asleep}/cancel")


def test_focus_survives_a_refresh_and_new_rows(page: Page, site: Site, word: str) -> None:
    first = site.start("payment", euros=1, note=word)
    site.await_status(first, "completed")
    page.goto(f"#/runs?q={word}")
    link = page.locator(f'a[href="#/runs/{first}"]')
    link.focus()
    page.evaluate("window.kept = document.activeElement")
    later = site.start("payment", euros=2, note=word)
    expect(page.locator("table.runs tbody tr").first).to_contain_text(later[:8])
    expect(link).to_be_focused()
    assert page.evaluate("window.kept === document.activeElement"), "the row is the same element"


def test_rows_are_reached_and_opened_by_keyboard_alone(page: Page, runtime: Runtime, keep: Keep) -> None:
    for n in range(3):
        keep(f"order{n}", workflow="shop.Order", at=1_000 + n)
    with Serving(runtime) as site:
        page.goto(f"{site.url}#/runs")
        expect(page.locator("table.runs tbody tr")).to_have_count(3)
        page.keyboard.press("/")
        expect(page.get_by_label("Search")).to_be_focused()
        page.keyboard.press("Tab")
        page.locator("main").focus()
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("k")
        expect(page.locator('a[href="#/runs/order2"]')).to_be_focused()
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("#/runs/order2$"))
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        page.keyboard.press("w")
        expect(page).to_have_url(re.compile("#/workflows$"))
        page.keyboard.press("s")
        expect(page.get_by_role("dialog", name="Start a run").get_by_role("link", name="booking")).to_be_visible()


def test_loaded_runs_are_sorted_by_duration_and_by_workflow(page: Page, runtime: Runtime, keep: Keep) -> None:
    keep("short", workflow="shop.Zoo", at=5_000)
    keep("long", workflow="shop.Ant", at=4_000)
    runtime.portal.call(
        runtime.store.command("age a run", "HSET", runtime.store.locate("long")["run"], "created_at", 10)
    )
    with Serving(runtime) as site:
        page.goto(f"{site.url}#/runs")
        rows = page.locator("table.runs tbody tr")
        expect(rows.first).to_contain_text("short")
        page.get_by_role("button", name="Duration").click()
        expect(rows.first).to_contain_text("long")
        expect(page.get_by_role("columnheader", name="Duration")).to_have_attribute("aria-sort", "descending")
        expect(page).to_have_url(re.compile("sort=duration"))
        page.get_by_role("button", name="Duration").click()
        expect(rows.first).to_contain_text("short")


def test_a_filter_is_saved_under_a_name(page: Page, runtime: Runtime, keep: Keep) -> None:
    keep("bad", "failed", workflow="shop.Order")
    keep("good", workflow="shop.Order")
    with Serving(runtime) as site:
        page.goto(f"{site.url}#/runs?status=failed")
        page.get_by_role("button", name="Save this filter").click()
        page.get_by_label("Name").fill("broken")
        page.get_by_role("button", name="Save", exact=True).click()
        page.goto(f"{site.url}#/runs")
        expect(page.locator("table.runs tbody tr")).to_have_count(2)
        page.get_by_role("link", name="broken").click()
        expect(page.locator("table.runs tbody tr")).to_have_count(1)
        page.get_by_role("button", name="Forget the filter broken").click()
        expect(page.get_by_role("link", name="broken")).to_have_count(0)


def test_selected_runs_are_retried_together(page: Page, site: Site, gates: set[str], word: str) -> None:
    gates.add("bank")
    runs = [site.start("payment", euros=n, note=word) for n in range(3)]
    for run_id in runs:
        site.await_status(run_id, "failed")
    gates.clear()
    page.goto(f"#/runs?status=failed&q={word}")
    expect(page.locator("table.runs tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Select", exact=True).click()
    page.get_by_role("button", name="Select all that match").click()
    page.get_by_role("button", name="Retry 3").click()
    dialog = page.get_by_role("dialog", name="Retry 3 runs?")
    expect(dialog).to_contain_text("unfinished steps run again")
    dialog.get_by_role("button", name="Retry").click()
    for run_id in runs:
        site.await_status(run_id, "completed")
    expect(page.get_by_text("No matching runs.")).to_be_visible()


def test_one_run_of_those_selected_is_cancelled(page: Page, site: Site, word: str) -> None:
    kept, cancelled = (site.start("booking", **TRIP, stops=[word]) for _ in range(2))
    page.goto(f"#/runs?q={word}")
    expect(page.locator("table.runs tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Select", exact=True).click()
    page.get_by_role("checkbox", name=f"Select booking {cancelled}").check()
    page.get_by_role("button", name="Cancel 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    site.await_status(cancelled, "cancelled")
    assert site.get(f"console/runs/{kept}").json()["status"] == "running"
    site.post(f"console/runs/{kept}/cancel")


def test_failed_runs_are_forked_together_with_one_edit(page: Page, site: Site, word: str) -> None:
    runs = [site.start("nine", prices=[word, str(n)]) for n in range(2)]
    for run_id in runs:
        site.await_status(run_id, "failed")
    page.goto(f"#/runs?status=failed&q={word}")
    expect(page.locator("table.runs tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Select", exact=True).click()
    page.get_by_role("button", name="Select all that match").click()
    page.get_by_role("button", name="Fork 2").click()
    dialog = page.get_by_role("dialog", name="Fork 2 runs?")
    dialog.get_by_label("Fields of that step").fill('{"prices": ["5"]}')
    dialog.get_by_role("button", name="Fork").click()
    done = page.get_by_role("dialog", name="Fork 2 runs")
    expect(done.get_by_role("link")).to_have_count(2)
    done.get_by_role("link").first.click()
    expect(done).to_have_count(0)
    expect(page.locator(".outcome")).to_contain_text("5")


def test_at_390_pixels_a_row_is_readable_whole(page: Page, site: Site, gates: set[str], word: str) -> None:
    gates.add("bank")
    site.await_status(site.start("payment", euros=71, note=f"{word} {'long ' * 40}"), "failed")
    gates.clear()
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"#/runs?q={word}")
    row = page.locator("table.runs tbody tr")
    expect(row).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.querySelector('.table-scroll').scrollWidth <= innerWidth")
    shown = {".badge": "failed", ".run-started": "just now", ".row-link": "payment", ".row-error": "the bank is closed"}
    boxes = []
    for part, text in shown.items():
        place = row.locator(part)
        expect(place).to_contain_text(text)
        boxes.append(eventually(place.bounding_box, f"{part} is drawn"))
        assert place.evaluate("each => each.scrollWidth <= each.clientWidth"), f"{part} is not cut"
        assert place.evaluate("each => parseFloat(getComputedStyle(each).fontSize)") >= 13
    for box in boxes:
        assert box["x"] >= 16
        assert box["x"] + box["width"] <= 374
    status, started, name, error = boxes
    assert status["x"] + status["width"] < started["x"]
    assert status["y"] + status["height"] <= name["y"] < name["y"] + name["height"] < error["y"]
    expect(row.locator(".summary")).to_have_css(
        "text-overflow", "ellipsis"
    )  # an ellipsis shows that a long input is truncated

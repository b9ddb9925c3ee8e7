"""The log lines of steps: in the execution that logged them, in the tab of the run, over HTTP."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from support.console.driving import Site


def test_an_execution_shows_what_it_has_logged_and_the_run_what_all_have(
    page: Page, site: Site, gates: set[str]
) -> None:
    gates.add("bank")
    run_id = site.start("payment", euros=7)
    site.await_status(run_id, "failed")
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("tab", name="Logs").click()
    lines = page.get_by_role("tabpanel", name="Logs").locator(".log-line")
    expect(lines).to_have_count(4)
    expect(lines.nth(0)).to_contain_text("bank charging 7 euros")
    expect(lines.nth(3)).to_contain_text("ERROR")
    expect(lines.nth(3)).to_contain_text("charge (2)")

    lines.nth(3).get_by_role("button").click()
    drawer = page.locator("dialog.drawer")
    expect(drawer.locator(".log-line")).to_have_count(4)
    expect(drawer.locator(".log-line").nth(3)).to_contain_text("no answer of the bank")


def test_a_run_that_has_logged_nothing_says_what_would_be_here(page: Page, site: Site) -> None:
    run_id = site.start("talk", text="hello")
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("tab", name="Logs").click()
    expect(page.get_by_text("Nothing was logged.")).to_be_visible()


def test_the_log_of_a_run_is_read_over_http(site: Site) -> None:
    run_id = site.start("payment", euros=9)
    site.await_status(run_id, "completed")

    answer = site.get(f"runs/{run_id}/logs", step="charge")

    [line] = answer.json()["lines"]
    assert answer.json()["is_cut"] is False
    assert (line["step"], line["attempt"], line["level"], line["logger"]) == ("charge", 1, "INFO", "bank")
    assert line["text"] == "charging 9 euros"
    assert site.get(f"runs/{run_id}/logs", step="thank").json()["lines"] == []
    assert site.get("runs/no-such-run/logs").status_code == 404

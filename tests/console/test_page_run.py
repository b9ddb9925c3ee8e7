"""One run in a real browser: its header, executions and colors, and its messages while the server is unreachable."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, expect

from support.console.driving import Site
from support.console.serving import Serving
from support.eventually import eventually
from umbel.tasks.client.runtime import Runtime

TRIP = {"city": "Oslo", "traveller": {"name": "Ada"}}


def test_a_yes_or_no_is_never_assumed_and_the_time_limit_is_shown(page: Page, site: Site) -> None:
    run_id = site.start("booking", **TRIP)
    page.goto(f"#/runs/{run_id}")
    expect(page.locator(".time-limit")).to_contain_text(re.compile(r"time left: \d+ min"))
    page.get_by_label("by").fill("Grace")
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.get_by_text("Choose yes or no").first).to_be_visible()
    assert site.get(f"console/runs/{run_id}").json()["questions"], "nothing was answered"
    page.get_by_role("radio", name="No").check()
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.locator(".outcome")).to_contain_text("Grace refused")


def test_the_end_is_green_only_where_the_run_succeeded(page: Page, site: Site, gates: set[str]) -> None:
    gates.add("bank")
    failed = site.start("payment", euros=7)
    site.await_status(failed, "failed")
    page.goto(f"#/runs/{failed}")
    end = page.locator(".graph .box.stop")
    expect(end).to_have_attribute("data-state", "idle")
    gates.clear()
    page.get_by_role("button", name="Retry").click()
    expect(end).to_have_attribute("data-state", "done")


def test_events_have_their_time_and_step(page: Page, site: Site) -> None:
    run_id = site.start("payment", euros=7, note="rent")
    page.goto(f"#/runs/{run_id}")
    row = page.locator(".events li", has_text="rent")
    expect(row.locator("time")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d\.\d\d\d$"))
    expect(row.locator(".event-step")).to_have_text("charge")
    page.get_by_label("Filter events").fill("charge")
    expect(row).to_have_count(1)


def test_an_object_in_an_opened_event_looks_like_any_other(page: Page, site: Site) -> None:
    run_id = site.start("payment", euros=7, note="rent")
    page.goto(f"#/runs/{run_id}")
    row = page.locator(".events li", has_text="rent")
    row.locator("summary").first.click()
    inner = row.locator(".json summary").last
    expect(inner).to_have_css("display", "inline")
    inner.hover()
    expect(inner).to_have_css("background-color", "rgba(0, 0, 0, 0)")


def test_an_execution_opens_with_its_event_attempts_and_what_it_led_to(page: Page, site: Site, gates: set[str]) -> None:
    gates.add("bank")
    run_id = site.start("payment", euros=71)
    site.await_status(run_id, "failed")
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("button", name="Open the execution").click()
    drawer = page.get_by_role("dialog")
    expect(drawer.locator(".attempt")).to_have_count(2)
    expect(drawer.locator(".attempt").last).to_contain_text("RuntimeError: the bank is closed")
    drawer.locator(".traceback summary").last.click()
    expect(drawer.locator(".traceback pre").last).to_contain_text("in charge")
    expect(drawer).to_contain_text("euros: 71")
    expect(page).to_have_url(re.compile(r"\?work="))
    page.reload()
    expect(page.get_by_role("dialog").locator(".attempt")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_an_execution_shows_what_it_read_of_the_state(page: Page, site: Site) -> None:
    run_id = site.start("nine", prices=["1.50", "2.25"])
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    page.locator(".graph [data-step=stage9]").click()
    drawer = page.get_by_role("dialog")
    expect(drawer.locator(".part", has_text="Read from")).to_contain_text("values when attempt 1 began")
    expect(drawer.locator(".read")).to_contain_text("total3.75")
    page.keyboard.press("Escape")
    page.locator(".graph [data-step=stage8]").click()
    expect(drawer.get_by_role("heading", name="stage8")).to_be_visible()
    expect(drawer.locator(".write")).to_contain_text("stage8")
    expect(drawer.locator(".part", has_text="Read from")).to_contain_text("Nothing.")
    assert drawer.locator(".read").count() == 0


def test_from_an_execution_one_reaches_its_causes_and_effects(page: Page, site: Site) -> None:
    run_id = site.start("booking", **TRIP)
    page.goto(f"#/runs/{run_id}")
    expect(page.get_by_role("heading", name="Book Aurora?")).to_be_visible()
    page.locator(".graph [data-step=search]").click()
    drawer = page.get_by_role("dialog")
    expect(drawer.locator(".write")).to_have_count(2)
    expect(drawer.locator(".write").first).to_contain_text('city"Oslo"')
    drawer.get_by_role("button", name="check").first.click()
    expect(drawer.get_by_role("heading", name="check")).to_be_visible()
    expect(drawer).to_contain_text('hotel: "Aurora"')
    drawer.get_by_role("button", name="choose").click()
    expect(drawer.locator(".passed", has_text="Checked")).to_have_count(3)
    page.keyboard.press("Escape")
    page.locator(".graph [data-step=check]").click()
    expect(drawer.get_by_role("listitem")).to_have_count(3)
    page.keyboard.press("Escape")
    site.post(f"console/runs/{run_id}/cancel")


def width_of_chart(page: Page) -> float:
    """Return the width of the timeline; a chart that is being drawn anew has none."""
    box = eventually(page.locator(".chart svg").bounding_box, "the chart is drawn")
    return float(box["width"])


def test_a_bar_of_the_timeline_opens_and_is_zoomed(page: Page, site: Site) -> None:
    run_id = site.start("payment", euros=7)
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("tab", name="Timeline").click()
    page.get_by_label("Arrange the timeline").select_option("by step")
    expect(page.locator(".chart-labels .worker")).to_have_text(["charge", "thank"])
    width = width_of_chart(page)
    page.get_by_role("button", name="Zoom in").click()
    eventually(lambda: width_of_chart(page) > 1.9 * width, "the chart is wider")
    page.get_by_role("button", name="Fit").click()
    page.locator(".chart .bar").first.click()
    expect(page.get_by_role("dialog").get_by_role("heading", name="charge")).to_be_visible()


def test_a_run_is_drawn_unrolled(page: Page, site: Site) -> None:
    run_id = site.start("booking", **TRIP)
    page.goto(f"#/runs/{run_id}")
    expect(page.get_by_role("heading", name="Book Aurora?")).to_be_visible()
    page.get_by_role("tab", name="Unrolled").click()
    boxes = page.locator(".unrolled .box.done", has_text="check")
    expect(boxes).to_have_count(3)
    boxes.first.click()
    expect(page.get_by_role("dialog").get_by_role("heading", name="check")).to_be_visible()
    page.keyboard.press("Escape")
    site.post(f"console/runs/{run_id}/cancel")


def test_a_run_is_started_again_with_the_same_and_with_another_input(page: Page, site: Site) -> None:
    run_id = site.start("payment", euros=71, note="rent")
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("button", name="Run again").click()
    page.wait_for_url(lambda url: "#/runs/" in url and run_id not in url)
    expect(page.locator(".outcome")).to_contain_text("paid 71")
    page.get_by_role("link", name="Edit and run again").click()
    expect(page.get_by_label("note")).to_have_value("rent")
    page.get_by_label("euros").fill("72")
    page.get_by_role("button", name="Start a run").click()
    expect(page.locator(".outcome")).to_contain_text("paid 72")


def test_an_action_says_so_when_the_server_is_away(browser: Browser, deployment: Runtime, gates: set[str]) -> None:
    gates.add("thank")
    with Serving(deployment) as site:
        page = browser.new_page()
        run_id = site.start("payment", euros=5)
        page.goto(f"{site.url}#/runs/{run_id}")
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel run").click()
    expect(page.get_by_text("Not cancelled: Server unreachable.")).to_be_visible()
    expect(page.get_by_text("Server unreachable, retrying …")).to_be_visible()
    page.close()
    gates.clear()


def test_header_and_body_are_aligned_at_every_width(page: Page, site: Site) -> None:
    for width in (390, 1280, 2200):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto("#/runs")
        expect(page.locator("main h1")).to_be_visible()
        edges = page.evaluate(
            "[document.querySelector('.brand'), document.querySelector('main h1')]"
            ".map((each) => each.getBoundingClientRect().left)"
        )
        assert edges[0] == edges[1], f"at {width}"
        right = page.evaluate("document.querySelector('.top').getBoundingClientRect().right - innerWidth")
        assert -20 < right <= 0, f"the header ends where the page ends, at {width}"


#: A step's counts after events, as passed to the graph.
COUNTED = """async ([counts, states]) => {
  const { liveSteps } = await import("./console/page/live_steps.js");
  let shown = null;
  const live = liveSteps({ show: (steps) => { shown = steps.get("read"); } });
  live.settle({ steps: [{ name: "read", ...counts }], is_partial: false, status: "running" });
  for (const [step_state, output_event_name] of states)
    live.event({ type: "StepStateChanged", value: { name: "read", step_state, output_event_name } });
  await new Promise(requestAnimationFrame);
  return [shown.queued, shown.ready, shown.retrying, shown.running, shown.done];
}"""


def test_events_move_executions_from_one_count_to_another_and_make_none(page: Page, site: Site) -> None:
    page.goto("#/runs")
    counts = {"queued": 2, "ready": 1, "retrying": 1, "running": 2, "done": 3}
    begun, ended = ["running", None], ["not_running", "Findings"]

    assert page.evaluate(COUNTED, [counts, [ended, begun]]) == [2, 0, 1, 2, 4]
    assert page.evaluate(COUNTED, [counts, [ended, begun, ended, begun]]) == [1, 0, 1, 2, 5]
    assert page.evaluate(COUNTED, [counts, [begun] * 4]) == [0, 0, 0, 6, 3]

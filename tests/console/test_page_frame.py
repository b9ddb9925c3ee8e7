"""The page around the console's views, in a real browser: addresses, lists, token, colors, access, hostile data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from support.console.driving import CHROMIUM_ARGUMENTS, Keep, Site
from support.console.serving import Serving
from support.eventually import eventually
from umbel.tasks.client.runtime import Runtime

HERE = Path(__file__).parent
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'"`${alert(1)}'

#: The left and right edges of header and body.
EDGES = """() => {
  const [root, box] = [document.documentElement, (at) => document.querySelector(at).getBoundingClientRect()];
  const span = (at) => [box(at).left, box(at).right];
  return {
    scrolls: root.scrollHeight > innerHeight, bar: innerWidth - root.clientWidth,
    top: span(".top"), body: span("body"), brand: box(".brand").left, heading: box("main h1").left,
    tools: box(".tools").right, view: box("main .view").right,
  };
}"""


@pytest.fixture
def many(runtime: Runtime, keep: Keep) -> Iterator[Site]:
    """A deployment without workers, with 130 runs."""
    for n in range(120):
        keep(
            f"order{n:03}",
            "failed" if n % 40 == 7 else "completed",
            workflow="support.console.flows.Payment",
            at=10_000 + n,
        )
    for n in range(10):
        keep(f"trip{n}", "running", workflow="support.console.flows.Booking", at=5_000 + n)
    with Serving(runtime) as site:
        yield site


def test_runs_are_searched_filtered_and_paged(page: Page, many: Site) -> None:
    page.goto(f"{many.url}#/runs")
    rows = page.locator("table.runs tbody tr")
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("order119")
    expect(page.locator("[data-count=failed]")).to_have_text("3")
    page.get_by_role("button", name="Load older runs").click()
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="Load older runs").click()
    expect(rows).to_have_count(130)
    expect(page.get_by_role("button", name="Load older runs")).to_be_hidden()
    page.get_by_text("failed", exact=True).click()
    expect(rows).to_have_count(3)
    page.get_by_text("all", exact=True).click()
    page.get_by_label("Search").fill("ORDER00")
    expect(rows).to_have_count(10)
    page.get_by_label("Search").fill("")
    page.get_by_label("Workflow").select_option("booking")
    expect(rows).to_have_count(10)
    page.get_by_label("Search").fill("nothing like this")
    expect(page.get_by_text("No matching runs.")).to_be_visible()


def test_a_filter_stands_in_the_address(page: Page, many: Site) -> None:
    page.goto(f"{many.url}#/runs?status=failed&q=order")
    rows = page.locator("table.runs tbody tr")
    expect(rows).to_have_count(3)
    expect(page.get_by_label("Search")).to_have_value("order")
    page.get_by_text("completed", exact=True).click()
    expect(page).to_have_url(re.compile(r"#/runs\?q=order&status=completed$"))


def test_empty_missing_and_wrong_values_are_reported(page: Page, runtime: Runtime) -> None:
    with Serving(runtime) as site:
        page.goto(f"{site.url}#/runs")
        expect(page.get_by_text("No runs yet.")).to_be_visible()
        page.get_by_role("link", name="Workflows").last.click()
        expect(page.get_by_role("link", name="booking")).to_be_visible()
        expect(page.get_by_text("No live worker serves this workflow").first).to_be_visible()
        page.goto(f"{site.url}#/runs/nobody")
        expect(page.get_by_role("alert").get_by_text("No run 'nobody'")).to_be_visible()
        page.goto(f"{site.url}#/nowhere")
        expect(page.get_by_role("heading", name="Not found")).to_be_visible()


def test_a_run_and_a_workflow_have_addresses_of_their_own(page: Page, site: Site) -> None:
    run_id = site.start("payment", euros=4)
    page.goto(f"#/runs/{run_id}")
    expect(page.locator("main h1")).to_have_text("payment euros: 4, note: ")
    expect(page).to_have_title(f"payment {run_id[:8]} · umbel")
    page.get_by_role("link", name="payment").click()
    expect(page).to_have_url(re.compile("#/workflows/payment$"))
    expect(page.get_by_role("heading", name="payment")).to_be_focused()
    page.go_back()
    expect(page.locator(".outcome")).to_contain_text("paid 4")


def test_what_events_and_results_contain_is_text_and_nothing_else(page: Page, site: Site) -> None:
    paid = site.start("payment", euros=4, note=HOSTILE)
    page.goto(f"#/runs/{paid}")
    row = page.locator(".events li", has_text="onerror")
    expect(row).to_have_count(1)
    row.locator("summary").first.click()
    expect(row.locator(".json")).to_contain_text("onerror")
    quiz = site.start("quiz", **{"topic": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}})
    page.goto(f"#/runs/{quiz}")
    expect(page.locator("code.id", has_text=quiz)).to_be_visible()
    page.get_by_role("tab", name="State").click()
    expect(page.locator(".state")).to_contain_text("onerror")
    page.locator(".question").get_by_label("text").fill(HOSTILE)
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.locator(".outcome")).to_contain_text("onerror")
    page.goto("#/runs?q=%3Cimg%20src=x%20onerror=window.hacked=1%3E")
    expect(page.get_by_text("No matching runs.")).to_be_visible()
    page.goto(f"#/runs/{'%3Cimg%20src=x%20onerror=window.hacked=1%3E'}")
    expect(page.get_by_role("alert").first).to_be_visible()
    assert page.locator("main img, main script, main iframe").count() == 0
    assert page.evaluate("window.hacked") is None


def test_the_token_is_asked_for_kept_in_the_tab_and_sent(browser: Browser, deployment: Runtime) -> None:
    with Serving(deployment, token="secret") as site:
        context = browser.new_context(base_url=site.url)
        page = context.new_page()
        page.goto("#/workflows/payment")
        dialog = page.get_by_role("dialog", name="Access token")
        expect(dialog).to_be_visible()
        dialog.get_by_label("Token").fill("wrong")
        dialog.get_by_role("button", name="Use token").click()
        expect(dialog).to_be_visible()
        dialog.get_by_label("Token").fill("secret")
        dialog.get_by_role("button", name="Use token").click()
        page.get_by_role("button", name="Start a run").click()
        expect(page.locator(".outcome")).to_contain_text("paid 10")  # it arrived in the stream
        page.reload()
        expect(page.locator(".outcome")).to_contain_text("paid 10")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        context.close()


def test_the_page_continues_when_the_server_is_back(browser: Browser, deployment: Runtime, gates: set[str]) -> None:
    gates.add("thank")
    first = Serving(deployment)
    with first as site:
        port = int(site.url.rstrip("/").rpartition(":")[2])
        page = browser.new_page()
        run_id = site.start("payment", euros=5)
        page.goto(f"{site.url}#/runs/{run_id}")
        expect(page.locator("[data-step=thank]")).to_have_attribute("data-state", "running")
    expect(page.get_by_text("reconnecting …")).to_be_visible()
    gates.clear()
    with Serving(deployment, port=port):
        expect(page.locator(".outcome")).to_contain_text("paid 5")
        expect(page.locator(".events li").last).to_contain_text("StopEvent")
        texts = page.locator(".events li").all_inner_texts()
        assert len(texts) == len(set(texts))
    page.close()


def test_it_works_below_a_path_of_another_app(browser: Browser, deployment: Runtime) -> None:
    with Serving(deployment, below="/flows") as site:
        page = browser.new_page()
        page.goto(f"{site.url}flows/#/workflows/payment")
        page.get_by_role("button", name="Start a run").click()
        expect(page.locator(".outcome")).to_contain_text("paid 10")
        page.close()


def test_it_is_dark_where_the_system_is_and_where_it_is_wanted(browser: Browser, site: Site) -> None:
    def ground(page: Page) -> int:
        return int(page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"))

    context = browser.new_context(base_url=site.url, color_scheme="dark")
    page = context.new_page()
    page.goto("")
    assert ground(page) < 50
    page.get_by_role("button", name="Colour theme").click()
    assert ground(page) > 200
    page.reload()
    assert ground(page) > 200
    page.get_by_role("button", name="Colour theme: light").click()
    page.get_by_role("button", name="Colour theme: dark").click()
    assert ground(page) < 50
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_and_operate_it(browser: Browser, site: Site, gates: set[str], scheme: str) -> None:
    look = (HERE / "accessibility.js").read_text()
    gates |= {"bank", "check Aurora"}
    runs = [site.start("booking", city="Oslo", traveller={"name": "Ada"}), site.start("payment"), site.start("quiz")]
    site.await_status(runs[1], "failed")
    context = browser.new_context(base_url=site.url, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    page = context.new_page()
    problems: dict[str, list[str]] = {}

    def check(name: str) -> None:
        found = page.evaluate(look)
        if found:
            problems[name] = found

    page.goto("#/runs")
    expect(page.locator("table.runs")).to_be_visible()
    check("runs")
    page.goto("#/workflows")
    expect(page.locator(".card").first).to_be_visible()
    check("workflows")
    page.goto("#/workflows/booking")
    page.get_by_role("button", name="Add to stops").click()
    page.get_by_role("button", name="Start a run").click()
    check("form with problems")
    for run_id in runs:
        page.goto(f"#/runs/{run_id}")
        expect(page.locator("code.id", has_text=run_id)).to_be_visible()  # and not the run before it
        page.get_by_label("internal events").check()
        for tab in ("Events", "Timeline", "Steps", "State", "Unrolled", "History"):
            page.get_by_role("tab", name=tab).click()
            check(f"{tab} of {run_id}")
    context.close()
    gates.clear()
    assert problems == {}


def test_it_is_operated_by_keyboard_alone(page: Page, site: Site) -> None:
    run_id = site.start("payment", euros=4)
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    expect(page.get_by_role("tab", name="Events")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.get_by_role("tab", name="Events").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Timeline")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Timeline")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("tabpanel", name="History")).to_be_visible()
    expect(page.get_by_role("tabpanel", name="Timeline")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_nothing_is_wider_than_the_window(page: Page, site: Site, width: int) -> None:
    run_id = site.start("payment", euros=4, note="x" * 3000)
    site.await_status(run_id, "completed")
    page.set_viewport_size({"width": width, "height": 800})
    for address in ("#/runs", "#/workflows/booking", f"#/runs/{run_id}"):
        page.goto(address)
        expect(page.locator("main h1")).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        eventually(lambda: page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{address} fits")


def test_header_and_body_are_aligned_with_and_without_something_to_scroll(
    browser: Browser, chromium: str, site: Site
) -> None:
    visible = {"args": CHROMIUM_ARGUMENTS, "ignore_default_args": ["--hide-scrollbars"]}
    with browser.browser_type.launch(executable_path=chromium, **visible) as other:  # type: ignore[arg-type]
        page = other.new_page(base_url=site.url)
        for width in (390, 1280, 2200):
            edges = []
            for height, scrolls in ((4000, False), (300, True)):
                page.set_viewport_size({"width": width, "height": height})
                page.goto("#/workflows")
                expect(page.locator(".card").first).to_be_visible()
                found = page.evaluate(EDGES)
                assert found.pop("scrolls") is scrolls
                assert found["bar"] > 0, "the scrollbar takes place"
                assert found["top"] == found["body"] == [0, width - found["bar"]], "no seam beside the header"
                assert found["brand"] == found["heading"]
                assert found["tools"] == found["view"]
                edges.append(found)
            assert edges[0] == edges[1], "nothing moves when there is something to scroll"
            assert page.evaluate("getComputedStyle(document.documentElement).scrollbarGutter") == "auto"

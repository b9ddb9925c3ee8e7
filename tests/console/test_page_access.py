"""Accessibility of the console in a real browser: axe, contrast, keyboard, window widths, light and dark themes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import umbel
from support.console.driving import Site

AXE = Path(umbel.__file__).parent / "scripts" / "javascript" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (390, 1280, 2200)


def addresses(site: Site) -> dict[str, str]:
    """Return views, and what each of them shows."""
    failed, asked = site.start("payment"), site.start("booking", city="Oslo", traveller={"name": "Ada"})
    site.await_status(failed, "failed")
    said = {"start_event": {"text": "hello"}, "session_id": "access"}
    site.await_status(site.post("workflows/talk/run-nowait", said).json()["run_id"], "completed")
    return {
        "#/": ".tiles",
        "#/runs": "table.runs",
        "#/workflows": ".card",
        "#/workflows/booking": "form.schema-form",
        "#/sessions": "table.list",
        "#/sessions/access": ".versions",
        "#/chat/talk?session=access": ".turn",
        "#/failures": ".group",
        "#/workers": ".workers table",
        f"#/runs/{failed}": ".failure",
        f"#/runs/{asked}": ".question",
    }


def serious(page: Page) -> list[str]:
    """Return what axe reports as serious or critical on the current page."""
    page.evaluate(AXE.read_text())
    found: list[dict[str, Any]] = page.evaluate("axe.run().then((answer) => answer.violations)")
    return [
        f"{each['id']}: {node['html'][:150]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, site: Site, gates: set[str], scheme: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: `make check-page` installs it with npm.")
    gates.add("bank")
    # Playwright can evaluate scripts despite the page's content security policy only where that is switched off.
    context = browser.new_context(
        base_url=site.url,
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
        bypass_csp=True,
    )
    page = context.new_page()
    problems: dict[str, list[str]] = {}

    def check(name: str) -> None:
        if found := serious(page):
            problems[name] = found

    for address, shown in addresses(site).items():
        page.goto(address)
        expect(page.locator(shown).first).to_be_visible()
        check(address)
    for tab in ("Timeline", "Steps", "Logs", "State", "Unrolled", "History"):
        page.get_by_role("tab", name=tab).click()
        check(tab)
    page.locator(".graph [data-step=search]").click()
    expect(page.locator(".passed").first).to_be_visible()
    check("an execution")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    check("a dialog")
    context.close()
    assert problems == {}


def test_nothing_is_wider_than_the_window_at_any_width(page: Page, site: Site, gates: set[str]) -> None:
    gates.add("bank")
    views = addresses(site)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        for address, shown in views.items():
            page.goto(address)
            expect(page.locator(shown).first).to_be_visible()
            page.wait_for_function("document.documentElement.scrollWidth <= innerWidth", timeout=5_000)


def test_a_failed_run_is_found_understood_and_retried_by_keyboard_alone(
    page: Page, site: Site, gates: set[str], word: str
) -> None:
    gates.add("bank")
    run_id = site.start("payment", euros=1, note=word)
    site.await_status(run_id, "failed")
    page.goto("#/")
    expect(page.locator(".tiles")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type(word)
    expect(page.locator("table.runs tbody tr")).to_have_count(1)
    page.keyboard.press("Escape")
    page.locator("main").focus()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    execution = page.get_by_role("button", name="Open the execution")
    expect(execution).to_be_visible()
    for _ in range(40):
        if execution.evaluate("(each) => each === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").locator(".attempt")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(execution).to_be_focused()
    gates.clear()
    page.get_by_role("button", name="Retry").press("Enter")
    expect(page.locator(".outcome")).to_contain_text("paid 1")

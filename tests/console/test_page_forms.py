"""Forms of the console page, made from JSON schemas, in a real browser."""

from __future__ import annotations

import json

from playwright.sync_api import Page, Request, expect

from support.console.driving import Site


def sent(page: Page) -> list[dict[str, object]]:
    """Collect the start events that the page sends from now on."""
    found: list[dict[str, object]] = []

    def note(request: Request) -> None:
        if request.method == "POST" and "run-nowait" in request.url:
            found.append(json.loads(request.post_data or ""))

    page.on("request", note)
    return found


def test_every_kind_of_field_is_sent_as_what_it_is(page: Page, gates: set[str]) -> None:
    gates.add("check Aurora")
    bodies = sent(page)
    page.goto("#/workflows/booking")
    page.get_by_label("city").fill("Oslo")
    page.get_by_label("nights").fill("3")
    page.get_by_label("budget").fill("99.5")
    page.get_by_label("refundable").uncheck()
    page.get_by_role("textbox", name="name").fill("Ada")
    page.get_by_label("seat").select_option(label="aisle")
    page.get_by_role("button", name="Add to stops").click()
    page.get_by_role("textbox", name="stops 1").fill("Bergen")
    page.get_by_role("button", name="Add to stops").click()
    page.get_by_role("textbox", name="stops 2").fill("Voss")
    page.get_by_role("button", name="Remove stops 1").click()
    page.get_by_label("notes").fill('{"diet": "none"}')
    page.get_by_role("button", name="Start a run").click()
    expect(page.get_by_role("tab", name="Events")).to_be_visible()
    event = {
        "city": "Oslo",
        "nights": 3,
        "budget": 99.5,
        "refundable": False,
        "traveller": {"name": "Ada", "seat": "aisle"},
        "stops": ["Voss"],
        "notes": {"diet": "none"},
    }
    assert bodies == [{"start_event": {"type": "Trip", "value": event}}]


def test_what_schemas_say_in_other_ways_is_understood_too(page: Page, site: Site) -> None:
    page.goto("#/workflows/oddities")
    form = page.locator("form.schema-form")
    form.get_by_label("colour").select_option(label="blue")
    form.get_by_label("when").fill("2026-11-21T14:30:00Z")
    form.get_by_label("Set maybe").check()
    form.get_by_role("group", name="maybe").get_by_label("name").fill("Ada")
    form.get_by_role("button", name="Add to people").click()
    form.get_by_role("group", name="people 1").get_by_label("name").fill("Grace")
    tree = form.get_by_role("group", name="tree")
    tree.get_by_label("name").fill("root")
    tree.get_by_role("button", name="Add to branches").click()
    tree.get_by_role("group", name="branches 1").get_by_label("name").fill("twig")
    form.get_by_label("either").fill('"text"')
    form.get_by_label("sure").select_option(label="false")
    form.get_by_label("anything").fill("[1, null]")
    form.get_by_label("wire-name").fill("8")
    page.get_by_role("button", name="Start a run").click()
    page.wait_for_url("**/#/runs/*")
    run_id = page.url.rpartition("/")[2]
    assert site.await_status(run_id, "completed")["result"]["value"] == {
        "value": "a name that envelopes have, too",
        "colour": "blue",
        "when": "2026-11-21T14:30:00Z",
        "maybe": {"name": "Ada", "seat": "window"},
        "people": [{"name": "Grace", "seat": "window"}],
        "tree": {"name": "root", "branches": [{"name": "twig", "branches": []}]},
        "pair": [1, "one"],
        "either": "text",
        "sure": False,
        "code": "AB-1",
        "ratio": 0.5,
        "anything": [1, None],
        "wire": 8,
    }


def test_bounds_and_patterns_of_a_schema_are_kept(page: Page) -> None:
    bodies = sent(page)
    page.goto("#/workflows/oddities")
    form = page.locator("form.schema-form")
    form.get_by_label("when").fill("2026-11-21T14:30:00Z")
    form.get_by_label("code").fill("ab-1")
    form.get_by_label("ratio").fill("1")
    for _ in range(3):
        form.get_by_role("button", name="Add to people").click()
    form.get_by_role("button", name="Start a run").click()
    expect(form.get_by_text("Must match ^[A-Z]{2}-\\d$")).to_be_visible()
    expect(form.get_by_text("Must be less than 1")).to_be_visible()
    expect(form.get_by_text("At most 2 items", exact=True)).to_be_visible()
    expect(form.get_by_text("Choose a value")).to_be_visible()
    assert bodies == []


def test_what_was_left_empty_is_not_sent(page: Page, gates: set[str]) -> None:
    gates.add("check Aurora")
    bodies = sent(page)
    page.goto("#/workflows/booking")
    page.get_by_label("city").fill("Oslo")
    page.get_by_role("textbox", name="name").fill("Ada")
    page.get_by_label("nights").fill("")
    page.get_by_role("button", name="Start a run").click()
    expect(page.get_by_role("tab", name="Events")).to_be_visible()
    value = bodies[0]["start_event"]["value"]  # type: ignore[index]
    assert "nights" not in value
    assert "notes" not in value
    assert value["budget"] == 420.5


def test_what_does_not_fit_is_shown_at_the_field_before_it_is_sent(page: Page) -> None:
    bodies = sent(page)
    page.goto("#/workflows/booking")
    page.get_by_label("city").fill("O")
    page.get_by_label("nights").fill("31")
    page.get_by_label("budget").fill("much")
    page.get_by_label("notes").fill("{")
    page.get_by_role("button", name="Start a run").click()
    for label, problem in (
        ("city", "At least 2 characters"),
        ("nights", "Must be at most 30"),
        ("budget", "Not a number"),
        ("notes", "Not valid JSON"),
    ):
        field = page.get_by_label(label, exact=False).first
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(page.locator(f"[id='{field.get_attribute('id')}-error']")).to_contain_text(problem)
    expect(page.get_by_text("5 fields are invalid")).to_be_visible()
    expect(page.get_by_label("city")).to_be_focused()
    assert bodies == []


def test_what_the_server_refuses_is_shown_at_the_field(page: Page) -> None:
    page.goto("#/workflows/booking")
    page.get_by_label("city").fill("Atlantis")
    page.get_by_role("textbox", name="name").fill("Ada")
    page.get_by_role("button", name="Start a run").click()
    field = page.get_by_label("city")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    expect(page.locator(f"[id='{field.get_attribute('id')}-error']")).to_contain_text("it has sunk")
    field.fill("Oslo")
    expect(field).not_to_have_attribute("aria-invalid", "true")


def test_an_answer_that_does_not_fit_is_shown_at_the_field(page: Page, site: Site) -> None:
    run_id = site.start("booking", city="Oslo", traveller={"name": "Ada"})
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.get_by_role("radio", name="Yes")).to_be_focused()
    page.get_by_role("radio", name="No").check()
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.get_by_label("by")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("by")).to_be_focused()
    site.post(f"console/runs/{run_id}/cancel")

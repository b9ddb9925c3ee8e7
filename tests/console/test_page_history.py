"""The history of a run in a real browser: the slider, the state at a point, forks and rewinds."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from support.console.driving import Site


def test_a_failed_run_of_nine_steps_is_understood_forked_and_followed_to_its_end_by_mouse(
    page: Page, site: Site
) -> None:
    run_id = site.start("nine", prices=["1.50", "2,25"])
    site.await_status(run_id, "failed")
    page.goto("#/")
    page.get_by_role("link", name="Failures", exact=True).click()
    page.get_by_role("link", name=run_id[:8]).click()
    failure = page.locator(".panel.failure")
    expect(failure).to_contain_text("stage7")
    expect(failure).to_contain_text("could not convert string to float: '2,25'")
    failure.get_by_role("button", name="Open the execution").click()
    execution = page.get_by_role("dialog")
    expect(execution.locator(".passed").first).to_contain_text("2,25")
    execution.get_by_role("button", name="Fork before this step").click()
    expect(page.locator(".past-items")).to_contain_text("stage7")
    expect(page.locator(".graph [data-step=stage6]")).to_have_attribute("data-state", "done")
    expect(page.locator(".graph [data-step=stage7]")).not_to_have_attribute("data-state", "failed")
    event = page.get_by_label("Event of stage7")  # the editor is open; only the value itself is typed
    event.fill(event.input_value().replace("2,25", "2.25"))
    page.get_by_role("button", name="Fork from here").click()
    page.wait_for_url(lambda url: "#/runs/" in url and run_id not in url)
    expect(page.locator(".outcome")).to_contain_text("3.75")
    assert site.get(f"console/runs/{run_id}").json()["status"] == "failed", "the first run is only read"
    page.get_by_role("tab", name="History").click()
    tree = page.get_by_label("Forks and rewinds")
    expect(tree.locator("[aria-current]")).to_contain_text("nine")
    tree.get_by_role("link", name=run_id[:8]).click()
    expect(failure).to_be_visible()


def test_the_states_of_two_points_are_compared(page: Page, site: Site) -> None:
    run_id = site.start("nine", prices=["1", "2"])
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("tab", name="History").click()
    expect(page.locator(".point-line").first).to_contain_text("stage9")
    page.get_by_label("Compare with another point").check()
    other = page.get_by_role("slider", name="Other point")
    writes = [
        at
        for at, each in enumerate(site.get(f"console/runs/{run_id}/history").json()["points"])
        if each["kind"] == "state"
    ]
    other.fill(str(writes[1]))
    changes = page.get_by_label("Differences").get_by_role("listitem")
    expect(changes).to_have_text(["~/stage28", "+/total3"])


def test_a_run_is_rewound_with_another_state_and_goes_on(page: Page, site: Site) -> None:
    run_id = site.start("nine", prices=["1", "2"])
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    page.get_by_role("tab", name="History").click()
    line = page.locator(".point-line").first
    expect(line).to_contain_text("stage9")
    while not re.search(r"commit stage8|claim stage9", line.inner_text()):
        before = line.inner_text()
        page.get_by_role("button", name="One change back").click()
        expect(line).not_to_have_text(before)
    expect(page.locator(".past-items")).to_contain_text("stage9")
    page.get_by_text("Edit state and events").click()
    state = page.get_by_role("textbox", name="State")
    state.fill(state.input_value().replace("3", "33"))
    page.get_by_role("button", name="Rewind to here").click()
    page.get_by_role("dialog").get_by_role("button", name="Rewind").click()
    expect(page.locator(".outcome")).to_contain_text("33")
    expect(page.get_by_label("Forks and rewinds")).to_contain_text("rewound to point")


def test_what_changed_at_a_point_is_shown(site: Site) -> None:
    run_id = site.start("nine", prices=["1"])
    site.await_status(run_id, "completed")
    points = site.get(f"console/runs/{run_id}/history").json()["points"]
    writes = [each["seq"] for each in points if each["kind"] == "state"]
    past = site.get(f"console/runs/{run_id}/history/{writes[0]}", against=writes[0] - 1).json()
    assert past["difference"] == [{"op": "add", "path": "/stage", "value": 1}]
    second = site.get(f"console/runs/{run_id}/history/{writes[0]}", against=writes[1]).json()
    assert second["difference"] == [{"op": "replace", "path": "/stage", "value": 2, "was": 1}]
    assert site.get(f"console/runs/{run_id}/history/100000").status_code == 404
    assert site.post(f"console/runs/{run_id}/fork", {"seq": "x"}).status_code == 400
    refused = site.post(f"console/runs/{run_id}/fork", {"seq": 2, "events": {"nobody": {}}})
    assert refused.status_code == 409
    assert "does not name exactly one work item" in refused.json()["detail"]

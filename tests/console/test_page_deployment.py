"""The console's views of the deployment in a real browser: overview, failures, workers, sessions, chat."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from playwright.sync_api import APIResponse, Locator, Page, Route, expect

from support.console.driving import Keep, Site
from support.console.serving import Serving
from support.eventually import eventually
from support.store.blocking import store_of
from umbel.orchestration.store.scripts import pack
from umbel.tasks.client.runtime import Runtime


def test_the_overview_says_what_ended_failed_and_is_slow(page: Page, site: Site, gates: set[str]) -> None:
    gates.add("bank")
    site.await_status(site.start("payment", euros=71), "failed")
    gates.clear()
    site.await_status(site.start("payment", euros=72), "completed")
    page.goto("#/")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.locator(".ended-chart svg")).to_have_attribute("aria-label", re.compile(r"runs ended in the last hour"))
    expect(page.locator(".failure-list")).to_contain_text("payment · charge")
    expect(page.get_by_role("table", name="Slowest steps").locator("tbody tr")).not_to_have_count(0)
    page.locator(".all-steps summary").click()
    expect(page.get_by_role("table", name="All steps").get_by_role("row", name="Payment.charge")).to_be_visible()
    expect(page.locator(".tile", has_text="Workers").locator("dd")).to_have_text("1")
    page.get_by_role("link", name="Failed in an hour").click()
    expect(page).to_have_url(re.compile("status=failed&since=3600"))


def test_without_a_worker_the_overview_says_so(page: Page, runtime: Runtime) -> None:
    with Serving(runtime) as site:
        page.goto(site.url)
        expect(page.get_by_role("list", name="Problems")).to_contain_text("No worker is running")
        page.goto(f"{site.url}#/workers")
        expect(page.get_by_text("No workers.")).to_be_visible()
        page.goto(f"{site.url}#/failures")
        expect(page.get_by_text("No failures.")).to_be_visible()


def test_failures_of_one_cause_are_a_group_that_is_retried_whole(page: Page, site: Site, gates: set[str]) -> None:
    gates.add("bank")
    runs = [site.start("payment", euros=n) for n in range(2)]
    for run_id in runs:
        site.await_status(run_id, "failed")
    page.goto("#/failures")
    group = page.locator(".group", has_text="the bank is closed")
    expect(group).to_have_count(1)
    expect(group).to_contain_text("retries exhausted")
    expect(group.get_by_role("link", name=runs[0][:8])).to_be_visible()
    gates.clear()
    group.get_by_role("button", name="Retry all").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    for run_id in runs:
        site.await_status(run_id, "completed")
    expect(group).to_have_count(0)


def test_workers_are_listed_with_what_they_serve(page: Page, site: Site) -> None:
    site.await_status(site.start("payment", euros=1), "completed")
    page.goto("#/workers")
    row = page.get_by_role("table", name="Workers").locator("tbody tr")
    expect(row).to_contain_text("live")
    expect(row).to_contain_text("in_process pool")
    expect(row).to_contain_text("Payment")
    expect(page.get_by_role("table", name="Queues")).to_contain_text("umbel")


def test_a_queue_is_paused_and_resumed_and_limits_are_shown(page: Page, runtime: Runtime) -> None:
    store = store_of(runtime)
    shard = runtime.store.keys.shard_of("shop.Order")
    for name, score in (("one", 1), ("two", 2)):
        store.client.zadd(runtime.store.keys.in_shard(shard, "waiting:shop.Order"), {name: score})
    store.client.hset(runtime.store.keys.in_shard(shard, "limits"), "shop.Order", "4 1000")
    with Serving(runtime) as site:
        site.post("console/queues/slow/pause")
        page.goto(f"{site.url}#/workers")
        expect(page.get_by_role("table", name="Concurrency limits").get_by_role("row").last).to_have_text("Order042")
        row = page.get_by_role("table", name="Queues").get_by_role("row", name="slow")
        expect(row).to_contain_text("paused")
        row.get_by_role("button", name="Resume slow").click()
        expect(row).to_have_count(0)


def test_a_workflow_is_paused_and_resumed(page: Page, site: Site) -> None:
    name = "support.console.flows.Payment"
    site.await_status(site.start("payment"), "completed")
    page.goto("#/workers")
    row = page.get_by_role("table", name="Workflows").get_by_role("row", name=name)
    row.get_by_role("button", name=f"Pause {name}").click()
    dialog = page.get_by_role("dialog", name=f"Pause workflow {name}?")
    expect(dialog).to_contain_text("Its runs wait at their next step")
    dialog.get_by_role("button", name="Back").click()
    expect(dialog).to_have_count(0)
    assert site.get("console/workers").json()["paused_workflows"] == {}
    row.get_by_role("button", name=f"Pause {name}").click()
    dialog.get_by_role("button", name="Pause").click()
    expect(row.locator(".badge")).to_have_text("paused")
    assert list(site.get("console/workers").json()["paused_workflows"]) == [name]
    row.get_by_role("button", name=f"Resume {name}").click()
    expect(row.locator(".badge")).to_have_count(0)
    assert site.get("console/workers").json()["paused_workflows"] == {}


def test_a_workflow_that_is_paused_by_the_last_part_of_its_name_is_resumed_by_it(page: Page, site: Site) -> None:
    site.await_status(site.start("payment"), "completed")
    site.post("console/workflows/Payment/pause")
    site.post("console/workflows/Nobody/pause")
    page.goto("#/workers")
    table = page.get_by_role("table", name="Workflows")

    # By the full name: workflows that other tests registered with this worker may have "nobody" in their names.
    def row(name: str) -> Locator:
        return table.locator(f'[data-key="{name}"]')

    for name in ("support.console.flows.Payment", "Nobody"):
        expect(row(name).locator(".badge")).to_have_text("paused")
    for name in ("Payment", "Nobody"):
        table.get_by_role("button", name=f"Resume {name}", exact=True).click()
    expect(table.locator(".badge")).to_have_count(0)
    expect(row("Nobody")).to_have_count(0)


def test_what_a_click_did_is_shown_although_an_answer_from_before_it_was_under_way(
    page: Page, runtime: Runtime
) -> None:
    held: list[tuple[Route, APIResponse]] = []
    with Serving(runtime) as site:
        site.post("console/queues/slow/pause")
        page.clock.install()
        page.goto(f"{site.url}#/workers")
        row = page.get_by_role("table", name="Queues").get_by_role("row", name="slow")
        expect(row).to_contain_text("paused")
        page.route("**/console/workers", lambda route: held.append((route, route.fetch())), times=1)
        page.clock.pause_at(datetime.now() + timedelta(hours=1))  # runs the timers due until then, and none after that
        # Playwright calls the route's handler while it waits for the page.
        eventually(lambda: page.evaluate("true") and len(held) == 1, "an answer from before is held")
        with page.expect_response("**/resume"):
            row.get_by_role("button", name="Resume slow").click()
        [(route, from_before)] = held
        route.fulfill(response=from_before)
        expect(row).to_have_count(0)


def test_a_user_with_access_to_some_runs_sees_no_figures_of_others(runtime: Runtime, keep: Keep) -> None:
    keep("theirs", "failed", workflow="shop.Secret")
    with Serving(runtime, authorize=lambda _, action, run_id: action == "overview" or run_id == "mine") as site:
        for path in ("overview", "failures"):
            answer = site.get(f"console/{path}")
            assert answer.status_code == 200
            assert "theirs" not in answer.text
            assert "Secret" not in answer.text
    with Serving(runtime, authorize=lambda _, action, run_id: action != "overview") as site:
        for path in ("overview", "failures", "workers"):
            assert site.get(f"console/{path}").status_code == 403


def test_a_conversation_is_a_session_whose_turns_are_runs(page: Page, site: Site, gates: set[str]) -> None:
    page.goto("#/workflows/talk")
    page.get_by_role("link", name="Chat").click()
    page.wait_for_url(re.compile("session="))
    page.get_by_label("Message").fill("good morning")
    page.get_by_role("button", name="Send").click()
    answers = page.locator(".answer-text")
    expect(answers).to_have_text(["You said 1: good morning "])
    gates.add("talk")
    page.get_by_label("Message").fill("and now")
    page.keyboard.press("Enter")
    expect(answers.last).to_have_text("You said 2: and now ")  # the run has not ended
    gates.clear()
    page.reload()
    expect(answers).to_have_text(["You said 1: good morning ", "You said 2: and now "])
    first = page.url
    site.await_status(page.locator(".turn-actions a").last.get_attribute("href").rpartition("/")[2], "completed")  # type: ignore[union-attr]
    page.get_by_role("button", name="Regenerate").last.click()
    page.wait_for_url(re.compile("-again-"))
    expect(answers).to_have_text(["You said 2: and now "])  # a fork has the state, but not the runs
    page.goto(first)
    expect(answers).to_have_count(2)


def test_a_message_sent_before_the_page_knows_what_it_is_sent_as_is_sent_then(page: Page) -> None:
    held: list[Route] = []
    page.route("**/console/workflows/talk", lambda route: held.append(route), times=1)
    page.goto("#/chat/talk")
    page.get_by_label("Message").fill("early")
    page.get_by_role("button", name="Send").click()
    eventually(lambda: page.evaluate("true") and len(held) == 1, "the page has asked")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    held[0].continue_()
    expect(page.locator(".answer-text")).to_have_text(["You said 1: early "])


def test_a_session_is_shown_with_runs_state_and_versions_and_rewound(page: Page, site: Site) -> None:
    for text in ("one", "two"):
        body = {"start_event": {"text": text}, "session_id": "grace"}
        run_id = site.post("workflows/talk/run-nowait", body).json()["run_id"]
        site.await_status(run_id, "completed")
    page.goto("#/sessions")
    page.get_by_role("link", name="grace").click()
    expect(page.get_by_role("table", name="Runs of this session")).to_contain_text("completed")
    state = page.locator(".panel", has_text="State").first
    expect(page.get_by_text('"two"')).to_be_visible()
    page.get_by_role("button", name="Show").nth(1).click()
    expect(page.get_by_text("As it was at version 1.")).to_be_visible()
    expect(state.get_by_text('"two"')).to_have_count(0)
    page.get_by_role("button", name="Show the present state").click()
    page.get_by_role("button", name="Rewind").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Rewind").click()
    expect(page.get_by_text('"two"')).to_have_count(0)
    expect(page.get_by_text('"one"')).to_be_visible()


def test_child_runs_are_a_tree_over_generations(page: Page, site: Site) -> None:
    run_id = site.start("errands", items=2)
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    rows = page.get_by_role("table", name="Child runs").locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("shopping")
    expect(rows.nth(1)).to_contain_text("generation 2: payment")
    expect(rows.nth(2)).to_contain_text("euros: 1")


def test_of_many_child_runs_each_is_above_its_own_and_the_page_says_that_there_are_more(
    page: Page, site: Site, deployment: Runtime
) -> None:
    store = store_of(deployment)

    def begin(parent: str, child: str, at: int) -> None:
        record = {"status": "running", "workflow": "shop.Order", "created_at": at, "parent": parent}
        store.client.hset(store.locate(child)["run"], mapping=record)  # type: ignore[arg-type]
        store.client.hset(store.locate(parent)["children"], child, pack({"st": "running"}))

    run_id = site.start("payment")
    site.await_status(run_id, "completed")
    for n in range(199):
        begin(run_id, f"{run_id}-{n}", at=1_000 + n)
    begin(f"{run_id}-198", f"{run_id}-below", at=5_000)
    assert site.get(f"console/runs/{run_id}").json()["has_more_children"] is False
    begin(run_id, f"{run_id}-199", at=1_199)
    page.goto(f"#/runs/{run_id}")
    children = page.get_by_role("table", name="Child runs").locator("tbody tr")
    expect(children).to_have_count(200)
    expect(children.last).to_contain_text("generation 2: Order")
    expect(page.get_by_text("Only the first 200 runs shown.")).to_be_visible()


def test_child_runs_are_listed_and_lead_to_their_parent(page: Page, site: Site) -> None:
    run_id = site.start("shopping", items=2)
    site.await_status(run_id, "completed")
    page.goto(f"#/runs/{run_id}")
    children = page.get_by_role("table", name="Child runs").locator("tbody tr")
    expect(children).to_have_count(2)
    expect(children.last).to_contain_text("euros: 1")
    children.last.click()
    expect(page.locator("main h1")).to_contain_text("payment")
    page.get_by_role("link", name=run_id[:12]).click()
    expect(page.locator("main h1")).to_contain_text("shopping")

"""What the console page receives over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from support.console import flows as console_flows
from support.console.driving import Keep, Site
from support.console.serving import Serving
from support.eventually import eventually
from support.store.blocking import store_of
from umbel import Settings
from umbel.errors import ConfigurationError
from umbel.server import Principal
from umbel.server.console.page_files import page_files
from umbel.tasks.client.runtime import Runtime

TRIP = {"city": "Oslo", "traveller": {"name": "Ada"}}


def question_of(site: Site, run_id: str) -> dict[str, Any]:
    """Wait for the run's only open question, and return it."""

    def asked() -> Any:
        questions = site.get(f"console/runs/{run_id}").json()["questions"]
        return questions[0] if len(questions) == 1 else None

    found: dict[str, Any] = eventually(asked, "a question is open")
    return found


def envelope(question: dict[str, Any], **value: Any) -> dict[str, Any]:
    """Return an answer to a question."""
    answer = question["answers"][0]
    return {"type": answer["type"], "qualified_name": answer["qualified_name"], "value": value}


# -- the page's files ------------------------------------------------------------------------------------------------


def test_the_page_allows_nothing_but_its_own_files(site: Site) -> None:
    page = site.get("")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert " style=" not in page.text
    assert "onclick" not in page.text


def test_files_are_known_by_name_and_nothing_else_is_served(site: Site) -> None:
    script = site.get("console/page/console.js")
    assert script.headers["content-type"].startswith("text/javascript")
    for path in ("console/page/none.js", "console/page/..%2Fguard.py", "console/page/../guard.py", "console/page/"):
        assert site.get(path).status_code == 404


def test_a_file_that_the_browser_has_is_not_sent_again(site: Site) -> None:
    first = site.get("console/page/console.css")
    again = httpx.get(site.url + "console/page/console.css", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


def test_no_file_of_the_page_makes_markup_of_text() -> None:
    for name, file in page_files().items():
        for way in (b"innerHTML", b"outerHTML", b"insertAdjacentHTML", b"document.write", b"eval(", b"new Function"):
            assert way not in file.content, f"{way!r} in {name}"


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_with_its_steps_question_state_and_timeline(site: Site) -> None:
    run_id = site.start("booking", **TRIP)
    question = question_of(site, run_id)
    run = site.get(f"console/runs/{run_id}").json()
    assert run["route"] == "booking"
    assert run["is_asleep"]
    assert {step["name"]: step["done"] for step in run["steps"]} == {"search": 1, "check": 3, "choose": 1, "ask": 0}
    assert {each["key"]: each["value"] for each in run["state"]} == {
        "city": "Oslo",
        "asked": {"nights": 2, "traveller": "Ada"},
    }
    assert {each["step"] for each in run["timeline"]} == {"search", "check", "choose", "ask"}
    assert question["asked"]["value"] == {"text": "Book Aurora?"}
    assert question["answers"][0]["schema"]["required"] == ["approved", "by"]

    assert site.post(f"console/runs/{run_id}/send", envelope(question, approved=False, by="Ada")).status_code == 200
    ended = site.await_status(run_id, "completed")
    assert ended["result"]["value"] == "Ada refused"
    assert ended["questions"] == []


def test_a_question_that_a_step_returned_is_open_until_it_is_answered(site: Site) -> None:
    run_id = site.start("quiz")
    question = question_of(site, run_id)
    assert question["step"] == "begin"
    assert question["asked"]["value"] == {"question": "Which river?"}
    assert [each["type"] for each in question["answers"]] == ["Reply"]
    assert site.post(f"console/runs/{run_id}/send", envelope(question, text="Inn")).status_code == 200
    assert site.await_status(run_id, "completed")["result"]["value"] == "Inn"


def test_an_answer_that_does_not_fit_is_refused_with_the_field(site: Site) -> None:
    run_id = site.start("booking", **TRIP)
    question = question_of(site, run_id)
    refused = site.post(f"console/runs/{run_id}/send", envelope(question, approved=True, by=""))
    assert refused.status_code == 400
    assert "by: " in refused.json()["detail"]
    refused = site.post(f"console/runs/{run_id}/send", {"type": "os.system", "value": {}})
    assert refused.status_code == 400
    assert "No event 'os.system' can be sent" in refused.json()["detail"]
    for body in ([], "x", {"type": 5}, {"value": None}):
        assert site.post(f"console/runs/{run_id}/send", body).status_code == 400
    assert site.post(f"console/runs/{run_id}/cancel").status_code == 200


def test_an_attempt_links_to_its_task_where_flower_is_known(site: Site, deployment: Runtime) -> None:
    run_id = site.start("named")
    task_id = site.await_status(run_id, "completed")["result"]["value"]
    work_id = site.get(f"console/runs/{run_id}").json()["timeline"][0]["work_id"]
    assert site.get(f"console/runs/{run_id}/work/{work_id}").json()["executions"][0]["task_url"] is None
    settings = deployment.store.settings.model_copy(update={"flower_url": "https://flower.example/root/"})
    watching = Runtime(settings)
    with Serving(watching) as other:
        (execution,) = other.get(f"console/runs/{run_id}/work/{work_id}").json()["executions"]
    watching.close()
    assert execution["task_url"] == f"https://flower.example/root/task/{quote(task_id, safe='')}"


def test_an_execution_says_which_keys_of_the_state_it_read_and_what_they_held(site: Site, deployment: Runtime) -> None:
    work = []
    for text in ("hello", "again"):
        body = {"start_event": {"text": text}, "session_id": "reading"}
        run_id = site.post("workflows/talk/run-nowait", body).json()["run_id"]
        timeline = site.await_status(run_id, "completed")["timeline"]
        work.append(f"console/runs/{run_id}/work/{timeline[0]['work_id']}")
    read = site.get(work[0]).json()["read"]
    assert (read["attempt"], read["keys"]) == (1, ["said"])
    first, second = (site.get(f"{each}/read").json() for each in work)
    assert (first["values"], first["unset"]) == ([], ["said"])
    assert [(each["key"], each["value"]) for each in second["values"]] == [("said", ["hello"])]
    assert site.get(f"console/runs/{run_id}/work/nothing/read").status_code == 404
    store_of(deployment).client.xtrim(deployment.store.locate(run_id)["journal"], maxlen=1, approximate=False)
    refused = site.get(f"{work[1]}/read")
    assert refused.status_code == 409
    assert "is kept from" in refused.json()["detail"]


def test_only_an_address_of_the_web_is_taken_for_flower() -> None:
    for address in ("javascript:alert(1)", "flower:5555", "http://a b"):
        with pytest.raises(ConfigurationError, match="UMBEL_FLOWER_URL"):
            Settings.from_environment({"UMBEL_FLOWER_URL": address})


def test_what_has_ended_is_neither_cancelled_nor_answered_nor_retried(site: Site) -> None:
    run_id = site.start("payment", euros=1)
    site.await_status(run_id, "completed")
    for what in ("cancel", "send", "retry"):
        refused = site.post(f"console/runs/{run_id}/{what}")
        assert refused.status_code == 409, what
        assert run_id in refused.json()["detail"]


def test_a_missing_run_is_reported(site: Site) -> None:
    for path in ("", "/graph", "/events"):
        assert site.get(f"console/runs/nobody{path}").status_code == 404
        assert site.get(f"console/runs/{'x' * 300}*{path}").status_code == 404
    for what in ("cancel", "send", "retry"):
        assert site.post(f"console/runs/nobody/{what}").status_code == 404
    assert site.get("console/workflows/nothing").status_code == 404


def test_a_run_of_an_unserved_workflow_is_shown_by_its_plan(site: Site, deployment: Runtime) -> None:
    handler = console_flows.Unserved().start()
    handler.result(20)
    run = site.get(f"console/runs/{handler.run_id}")
    assert run.json()["route"] is None
    graph = site.get(f"console/runs/{handler.run_id}/graph").json()
    assert {box["id"]: box["look"] for box in graph["boxes"]} == {
        "event umbel.StartEvent": "start",
        "only": "step",
        "event umbel.StopEvent": "stop",
    }
    assert site.get(f"console/runs/{handler.run_id}/events").status_code == 200


def test_whatever_is_in_a_state_can_be_shown(site: Site) -> None:
    nested: Any = "deep"
    for _ in range(100):
        nested = [nested]
    odd = {
        "html": "<script>alert(1)</script>",
        "large": "x" * 100_000,
        "whole": 2**63,
        "nested": nested,
    }
    run_id = site.start("quiz", **odd)
    question_of(site, run_id)
    shown = {each["key"]: each for each in site.get(f"console/runs/{run_id}").json()["state"]}
    assert shown["html"]["value"] == odd["html"]
    assert shown["whole"]["value"] == 2**63
    assert shown["large"] == {"key": "large", "value": None, "size": 100_002, "why_not": "too large to show"}
    assert shown["nested"]["value"] == nested
    site.post(f"console/runs/{run_id}/cancel")


# -- lists -----------------------------------------------------------------------------------------------------------


def test_runs_are_listed_by_the_name_they_are_served_under(runtime: Runtime, keep: Keep) -> None:
    for n in range(3):
        keep(f"pay{n}", "failed", workflow="support.console.flows.Payment", at=1_000 + n)
    keep("other", "running", at=5_000)
    with Serving(runtime) as site:
        page = site.get("console/runs", workflow="payment", limit=2).json()
        assert [run["run_id"] for run in page["runs"]] == ["pay2", "pay1"]
        assert page["runs"][0]["route"] == "payment"
        assert page["counts"]["running"] == 1
        rest = site.get("console/runs", workflow="payment", limit=2, cursor=page["cursor"]).json()
        assert [run["run_id"] for run in rest["runs"]] == ["pay0"]
        assert site.get("console/runs", search="OTH").json()["runs"][0]["route"] is None
        for wrong in ({"status": "done"}, {"limit": "many"}, {"limit": 0}, {"cursor": "x"}):
            refused = site.get("console/runs", **wrong)
            assert refused.status_code == 400
            assert refused.json()["detail"]
        assert "No live worker" in site.get("console/workflows").json()["workflows"][0]["trouble"]


def test_a_user_with_access_to_some_runs_sees_only_these(runtime: Runtime, keep: Keep) -> None:
    keep("mine")
    keep("theirs")
    keep("named.abcdefgh")

    def authorize(_: Principal, action: str, run_id: str | None) -> bool:
        return run_id in (None, "mine", "named")

    with Serving(runtime, authorize=authorize) as site:
        page = site.get("console/runs").json()
        assert {run["run_id"] for run in page["runs"]} == {"mine", "named.abcdefgh"}
        assert page["counts"] is None
        for path in ("", "/graph", "/events"):
            assert site.get(f"console/runs/theirs{path}").status_code == 403
        for what in ("cancel", "send", "retry"):
            assert site.post(f"console/runs/theirs/{what}").status_code == 403


def test_with_a_token_only_the_page_itself_is_open(runtime: Runtime) -> None:
    with Serving(runtime, token="secret") as site:
        assert site.get("").status_code == 200
        assert site.get("console/page/console.js").status_code == 200
        for path in ("console/runs", "console/workflows", "console/runs/x", "console/runs/x/events", "workflows"):
            assert site.get(path).status_code == 401
        for what in ("cancel", "send", "retry"):
            assert site.post(f"console/runs/x/{what}").status_code == 401


def test_a_workflow_is_paused_and_resumed_for_the_whole_deployment(site: Site) -> None:
    assert site.post("console/workflows/shop.Order/pause").json() == {"status": "paused"}
    assert list(site.get("console/workers").json()["paused_workflows"]) == ["shop.Order"]
    assert site.post("console/workflows/shop.Order/resume").json() == {"status": "resumed"}
    assert site.get("console/workers").json()["paused_workflows"] == {}
    assert site.post(f"console/workflows/{'x' * 201}/pause").status_code == 400

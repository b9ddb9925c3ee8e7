"""`umbel cancel`, `umbel retry` and `umbel delete` on many runs selected by conditions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.processes.command_line import FLOWS, Cli
from umbel.workers.embedded.redis_server import EmbeddedRedis


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "flows.py").write_text(FLOWS)
    with EmbeddedRedis.temporary() as server:
        configured = Cli(folder, UMBEL_REDIS_URL=server.url)
        served = [f"flows:{name}" for name in ("Squares", "Order", "Ask")]
        with configured.background("worker", *served, "--name", "w1") as worker:
            worker.says("ready.")
            yield configured


def statuses(cli: Cli) -> dict[str, str]:
    listed: list[dict[str, Any]] = json.loads(cli("runs", "--json").out)
    return {each["run_id"]: each["status"] for each in listed}


@pytest.mark.timeout(150)
def test_running_runs_are_cancelled_by_conditions_after_a_question(cli: Cli) -> None:
    for n in range(2):
        cli("start", "flows:Ask", "--run-id", f"ask{n}")

    assert "Cancel 2 running runs?" in cli("cancel", "--workflow", "Ask", stdin="n\n", fails=True).err
    assert statuses(cli)["ask0"] == "running"
    assert "Cancelled 2 runs." in cli("cancel", "--workflow", "Ask", "--since", "1h", "--yes").err
    assert "No matching runs." in cli("cancel", "--all").err


@pytest.mark.timeout(150)
def test_failed_runs_are_resumed_and_ended_ones_deleted_by_conditions(cli: Cli, tmp_path: Path) -> None:
    for n in range(2):
        cli("start", "flows:Order", f"folder={tmp_path}", "--run-id", f"order{n}")
        cli("events", f"order{n}", "--follow")
    (tmp_path / "money").touch()
    assert cli("retry", "--workflow", "Order", "--since", "2026-01-01", "--yes").err.count("resumes with 1 step") == 2
    for n in range(2):
        cli("events", f"order{n}", "--follow")

    assert "No matching runs." in cli("delete", "--older-than", "1d", "--yes").err
    assert "Deleted 1 run." in cli("delete", "order0").err
    assert "Deleted 1 run." in cli("delete", "--status", "completed", "--yes").err
    assert not {"order0", "order1"} & set(statuses(cli))


def test_what_is_given_must_say_which_runs(cli: Cli) -> None:
    for command in ("cancel", "retry", "delete"):
        assert "Give run ids, or --all" in cli(command, fails=True).err
        assert "Give run ids, or --all" in cli(command, "some", "--all", fails=True).err
    assert "Invalid value for '--since'" in cli("delete", "--since", "soon", fails=True).err
    assert "not running" in cli("delete", "--status", "running", fails=True).err


def test_a_running_run_is_not_deleted(cli: Cli) -> None:
    cli("start", "flows:Ask", "--run-id", "asking")
    assert "Not deleted: asking" in cli.error("delete", "asking")
    cli("cancel", "asking")


@pytest.mark.timeout(150)
def test_tags_choose_runs(cli: Cli) -> None:
    cli("start", "flows:Ask", "--run-id", "eu", "--tag", "eu", "--priority", "3")
    cli("start", "flows:Ask", "--run-id", "old", "--tag", "eu", "--tag", "old")

    listed = json.loads(cli("runs", "--json", "--tag", "eu", "--since", "1h").out)
    assert {each["run_id"]: each["tags"] for each in listed} == {"eu": ["eu"], "old": ["eu", "old"]}
    assert "Cancelled 1 run." in cli("cancel", "--tag", "eu", "--tag", "old", "--yes").err
    assert "Cancelled 1 run." in cli("cancel", "--tag", "eu", "--yes").err

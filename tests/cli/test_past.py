"""`umbel history`, `diff`, `fork`, `rewind` and `verify` on runs of a real worker."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from umbel import Context, Event, Runtime, StartEvent, StopEvent, Workflow, step
from umbel.workers.cli.main import cli
from umbel.workers.local.command_process import process_environment

pytestmark = pytest.mark.usefixtures("runtime")


class Checked(Event):
    amount: int


class Ordered(StartEvent):
    amount: int


class Shop(Workflow):
    @step
    async def check(self, ctx: Context[Any], ev: Ordered) -> Checked:
        await ctx.store.set("amount", ev.amount)
        return Checked(amount=ev.amount)

    @step
    async def charge(self, ctx: Context[Any], ev: Checked) -> StopEvent:
        if ev.amount < 0:
            raise ValueError("no money")
        return StopEvent(result=[ev.amount, await ctx.store.get("amount")])


@pytest.fixture
def failed(runtime: Runtime) -> str:
    handler = Shop().run(amount=-1)
    with pytest.raises(ValueError, match="no money"):
        handler.result()
    return handler.run_id


def call(runtime: Runtime, *words: str, code: int = 0) -> str:
    assert runtime.settings.redis_url is not None
    done = CliRunner().invoke(cli, [*words, "--redis", runtime.settings.redis_url])
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.output


def test_the_history_of_a_run_is_a_table_or_json(runtime: Runtime, failed: str) -> None:
    table = call(runtime, "history", failed)
    listed = json.loads(call(runtime, "history", failed, "--json", "--kind", "commit"))

    assert table.splitlines()[0].split() == ["POINT", "TIME", "KIND", "STEP", "ATTEMPT", "OUTCOME", "STATE", "WORKER"]
    assert [(point["step"], point["outcome"]) for point in listed] == [("check", "returned"), ("charge", "failed")]


def test_a_run_is_shown_as_it_was(runtime: Runtime, failed: str) -> None:
    shown = json.loads(call(runtime, "history", failed, "--at", "before charge", "--json"))

    assert shown["state"] == {"amount": -1}
    assert [(work["step"], work["events"]) for work in shown["work"]] == [("charge", [{"amount": -1}])]
    assert json.loads(call(runtime, "diff", failed, "1", "before charge")) == [
        {"op": "add", "path": "/amount", "value": -1}
    ]
    assert "has no point 99" in call(runtime, "history", failed, "--at", "99", code=1)


def test_a_run_is_forked_and_put_back_with_changes(runtime: Runtime, failed: str) -> None:
    edits = ["--from", "before charge", "--event", 'charge={"amount": 3}', "--set", "amount=4"]

    made = call(runtime, "fork", failed, *edits).strip()
    assert runtime.attach(made).result() == [3, 4]
    call(runtime, "rewind", failed, *edits)
    assert runtime.attach(failed).result() == [3, 4]
    call(runtime, "verify", failed, made)


def test_a_fork_takes_what_was_recorded(runtime: Runtime, failed: str) -> None:
    words = ["--from", "1", "--reuse", "recorded", "--answers", "recorded", "--keep-idempotency-keys"]

    made = call(runtime, "fork", failed, *words, "--session", "with-a-fork").strip()

    with pytest.raises(ValueError, match="no money"):
        runtime.attach(made).result()
    table = call(runtime, "history", made)
    assert [line.split()[2:6] for line in table.splitlines() if "recorded" in line] == [
        ["commit", "check", "1", "returned,"]
    ]


def test_edits_that_cannot_be_read_are_refused(runtime: Runtime, failed: str) -> None:
    said = call(runtime, "fork", failed, "--from", "before charge", "--set", "name=Ada", code=2)

    assert "Expected --set KEY=JSON" in said


def test_failed_runs_are_forked_together_before_the_step_that_failed(runtime: Runtime, failed: str) -> None:
    where = ["--where", "status=failed workflow=Shop step=charge", "--yes"]

    made = call(runtime, "fork", *where, "--event", 'charge={"amount": 3}').split()
    nothing = call(runtime, "fork", "--where", "status=failed step=check workflow=Shop", "--yes")

    assert [3, -1] in [runtime.attach(each).result() for each in made]
    assert nothing == ""
    assert "Give the point" in call(runtime, "fork", failed, code=2)
    assert "expected one each of" in call(runtime, "fork", "--where", "colour=red", code=2)


NEXT_SHOP = """
from umbel import Workflow, step
from test_past import Checked, Ordered, Shop

class Next(Shop):
    @step
    async def check(self, ev: Ordered) -> Checked:
        return Checked(amount=ev.amount + 1)
"""


def test_recorded_steps_are_executed_again_with_other_code(
    runtime: Runtime, failed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "next_shop.py").write_text(NEXT_SHOP)
    target = str(tmp_path / "next_shop.py")

    same = call(runtime, "replay", failed, "--code", f"{__file__}:Shop", "--strict")
    other = call(runtime, "replay", failed, "--code", f"{target}:Next", code=1)
    report = json.loads(call(runtime, "replay", failed, "--code", f"{target}:Next", "--result-only", "--json", code=1))

    assert same == ""
    assert "check attempt 1: returned" in other
    assert '"value": {"amount": 0}' in other
    assert (report["holds"], report["equal"], [each["what"] for each in report["mismatches"]]) == (
        False,
        1,
        ["returned"],
    )
    assert "Give run ids, or conditions" in call(runtime, "replay", "--code", target, code=2)


def test_a_copy_of_the_code_under_another_module_name_is_not_compared(
    runtime: Runtime, failed: str, tmp_path: Path
) -> None:
    copy = shutil.copy(__file__, tmp_path / "copied_shop.py")

    done = subprocess.run(
        [sys.executable, "-m", "umbel.workers.cli", "replay", failed, "--code", f"{copy}:Shop", "--strict"],
        env=process_environment(runtime.settings),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "a copy of the module 'test_past' has to have this name too" in done.stdout
    assert "0 differences, 1 not replayed" in done.stderr

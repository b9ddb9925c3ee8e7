"""Failpoints: read from one variable, decided by a seed, logged to a file, and inactive without the variable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError

from umbel.orchestration.connection import failpoints
from umbel.orchestration.connection.failpoints import Failpoints, failpoint
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.errors import ConfigurationError


def test_without_the_variable_a_failpoint_does_nothing() -> None:
    assert failpoints._armed is None
    assert failpoint("commit", "after") == 1


def test_the_variable_is_no_setting() -> None:
    Settings.from_environment({"UMBEL_FAILPOINTS": "commit.after=kill", "UMBEL_REDIS_URL": "redis://127.0.0.1"})


def test_the_third_hit_is_the_third_of_its_own_place() -> None:
    armed = Failpoints.parse("claim.before=raise@#3")
    assert [armed.reach("claim.before"), armed.reach("commit.before"), armed.reach("claim.before")] == [1, 1, 1]
    with pytest.raises(ConnectionError, match=r"claim\.before"):
        armed.reach("claim.before")
    assert armed.reach("claim.before") == 1


def test_chances_follow_from_the_seed_and_the_failpoint() -> None:
    def dropped(seed: int, name: str) -> list[int]:
        armed = Failpoints.parse(f"*=drop@1/3;seed={seed}")
        return [armed.reach(name) for _ in range(60)]

    assert dropped(7, "dispatch.before") == dropped(7, "dispatch.before")
    assert dropped(7, "dispatch.before") != dropped(8, "dispatch.before")
    assert dropped(7, "dispatch.before") != dropped(7, "push.before")
    assert 5 < dropped(7, "dispatch.before").count(0) < 40


def test_a_publish_may_be_left_out_or_doubled() -> None:
    armed = Failpoints.parse("dispatch.before=drop;push.before=dup")
    assert (armed.reach("dispatch.before"), armed.reach("push.before"), armed.reach("send.before")) == (0, 2, 1)


def test_the_first_rule_that_fits_counts() -> None:
    armed = Failpoints.parse("commit.*=hit;*.before=drop")
    assert (armed.reach("commit.before"), armed.reach("claim.before")) == (1, 0)


def test_what_is_limited_happens_so_often_in_all_processes_together(tmp_path: Path) -> None:
    spec = f"*.before=drop*2;log={tmp_path / 'log'}"
    processes = [Failpoints.parse(spec) for _ in range(3)]
    assert [armed.reach("dispatch.before") for armed in processes] == [0, 0, 1]
    hits = [line.split()[:2] for line in (tmp_path / "log").read_text().splitlines()]
    assert hits.count(["dispatch.before", "hit"]) == 3
    assert hits.count(["dispatch.before", "drop"]) == 2


def test_an_armed_process_dies_at_its_failpoint_and_its_log_says_so(tmp_path: Path) -> None:
    code = "import os\nfrom umbel.orchestration.connection.failpoints import failpoint\nfailpoint('commit', 'before')\n"
    code += "failpoint('commit', 'after')\nprint('alive')"
    spec = f"commit.after=kill;log={tmp_path / 'log'}"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"UMBEL_FAILPOINTS": spec}, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")
    log_entries = [line.split()[:2] for line in (tmp_path / "log").read_text().splitlines()]
    assert log_entries == [["commit.before", "hit"], ["commit.after", "hit"], ["commit.after", "kill"]]


def test_a_forked_child_counts_for_itself_and_has_chances_of_its_own() -> None:
    armed = Failpoints.parse("dispatch.before=drop@1/2;seed=3")
    first = [armed.reach("dispatch.before") for _ in range(40)]
    armed.count_fork()
    armed.begin_in_child()
    assert armed.hits["dispatch.before"] == 0
    assert [armed.reach("dispatch.before") for _ in range(40)] != first


@pytest.mark.parametrize(
    "spec", ["commit.after", "commit.after=burn", "commit.after=kill@20", "commit.after=kill@1/2@"]
)
def test_a_rule_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(ConfigurationError, match="has a rule .*: expected name=action"):
        Failpoints.parse(spec)

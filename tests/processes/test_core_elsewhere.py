"""The tests of running workflows that use a single embedded Redis also pass on a Redis Cluster and behind Sentinel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT
from support.processes.clusters import ClusterUnderTest
from support.processes.sentinels import Watched
from umbel.workers.embedded.supervisor import Supervisor

#: Files, and single tests of files whose other tests are slow or have little to do with Redis.
CHOSEN = {
    "running/test_running.py": (),
    "joins/test_fan_out.py": (),
    "joins/test_correlated_joins.py": (
        "test_events_that_share_a_value_are_joined_whatever_comes_between",
        "test_a_fan_in_by_a_field_runs_once_for_each_of_its_values",
        "test_large_groups_and_many_of_them_are_brought_to_redis_in_parts",
    ),
    "waiting/test_waiting.py": (),
    "waiting/test_once.py": ("test_a_failed_attempt_keeps_its_values_for_the_next_one",),
    "retries/test_retries.py": (),
    "cancelling/test_cancelled_steps.py": (
        "test_running_and_queued_executions_are_cancelled_and_the_fan_in_gets_the_rest",
    ),
    "streams/test_streaming.py": (),
    "sessions/test_sessions.py": (
        "test_runs_of_a_session_share_the_state_and_have_their_turns_in_the_order_of_their_starts",
        "test_interrupting_keeps_what_was_written_and_rolling_back_does_not",
        "test_of_concurrent_sends_each_is_delivered_once",
        "test_a_session_can_be_forked_at_any_of_its_runs",
        "test_a_deleted_session_leaves_nothing",
        "test_sessions_are_listed_by_name_and_by_what_they_do",
    ),
    "children/test_child_runs.py": (
        "test_results_of_many_come_in_their_order",
        "test_the_failure_of_a_child_is_raised_in_the_step_with_its_cause",
        "test_a_cancelled_parent_cancels_its_children_and_theirs",
        "test_a_retried_parent_takes_up_the_children_that_failed",
    ),
    "concurrency/test_concurrent_runs.py": ("test_one_after_the_other_in_the_order_of_their_starts",),
    "history/test_points.py": (
        "test_a_run_can_be_looked_at_before_and_after_each_outcome",
        "test_a_fork_executes_what_comes_after_its_point_with_what_was_changed",
        "test_a_failed_run_that_is_put_back_goes_on_under_its_id",
    ),
    "history/test_forked_children.py": ("test_children_are_forked_as_they_were_at_the_point",),
    "history/test_replay.py": ("test_the_same_code_does_what_is_recorded_and_nothing_is_computed_again_that_is_kept",),
    "snapshots/test_snapshots.py": (
        "test_a_snapshot_of_a_waiting_run_continues_without_input_and_leaves_the_original_alone",
    ),
    "running/test_many_runs.py": (
        "test_runs_are_found_by_their_tags_from_the_newest_on",
        "test_running_runs_are_cancelled_and_others_are_left",
        "test_ended_runs_are_deleted_and_running_ones_are_left",
    ),
}


@pytest.fixture(params=["cluster", "sentinel"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Yield pytest options that select the server."""
    with Supervisor() as supervisor:
        if request.param == "cluster":
            cluster = ClusterUnderTest(tmp_path, supervisor, replicated=True)
            yield ["--state", cluster.url, "--broker", request.getfixturevalue("durable_redis_url")]
            cluster.close()
        else:
            watched = Watched(tmp_path, supervisor)
            yield ["--state", watched.url]
            watched.close()


def test_runs_do_there_what_they_do_on_a_single_redis(there: list[str]) -> None:
    """Run in a separate process: an in-process worker must be the only one in its process, and other tests have one."""
    tests = [f"tests/{file}{f'::{name}' if name else ''}" for file, names in CHOSEN.items() for name in names or ("",)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--timeout", "40", *there, *tests],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stdout

"""How a fault test ends: all runs are awaited and judged, what was measured goes into the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from support.chaos.deployment import ChaosDeployment
from support.chaos.invariants import Violation, violations
from support.chaos.mixed_load import Load
from support.chaos.observed import see_leftovers, see_runs
from support.chaos.recoveries import recovery_seconds as seconds_until_again
from support.chaos.recovery_report import RecoveryReport
from support.eventually import eventually

#: Of tests in which chance has no part: executed once, not with every seed.
ONE_SEED = 1

#: One worker of each kind: scripts are sent one by one by the one, and grouped by the other.
POOLS = {"prefork": 2, "asyncio": 30}


def start_workers(deployment: ChaosDeployment, *pools: str) -> None:
    """Start a worker of each pool and wait until all take messages."""
    made = [deployment.worker(pool, pool=pool, concurrency=POOLS[pool]) for pool in pools or POOLS]
    for worker in made:
        worker.wait_ready()


def conclude(
    report: RecoveryReport,
    fault: str,
    load: Load,
    *,
    seed: int,
    recovery_seconds: list[float] | tuple[float, ...] = (),
    deaths: Mapping[int, float] | None = None,
    seconds: float = 50.0,
    is_set_back: bool = False,
) -> None:
    """Await all runs, judge them, note what was measured; fails when an invariant does not hold.

    Args:
        report: The table of the session.
        fault: Its number and what it is.
        load: The runs.
        seed: Of this test.
        recovery_seconds: From the fault to the next progress.
        deaths: Processes that were killed, and when: how long their steps lay idle is measured.
        seconds: How long the runs may take.
        is_set_back: Redis has gone back to an earlier point: what steps did in the moment that never was is in the
            effect log and in nobody's memory.
    """
    load.await_all(seconds)
    found = judge_without_effects(load) if is_set_back else load.judge()
    report.add(
        fault,
        seed=seed,
        runs=len(load.seen),
        executions=load.executions(),
        absorbed=load.absorbed(),
        recovery_seconds=[*recovery_seconds, *seconds_until_again(load.seen.values(), deaths or {})],
        violations=len(found),
    )
    assert not found, "\n".join([f"{len(found)} violations", *map(str, found[:40])])


def judge_without_effects(load: Load) -> list[Violation]:
    """Judge by what Redis tells alone."""
    deployment = load.deployment
    eventually(lambda: not see_leftovers(deployment).indexed, "nothing is under way")
    runs = see_runs(deployment, load.seen.values())
    for run in runs:
        run.effects = []
    return violations(runs, see_leftovers(deployment))


def next_progress(deployment: ChaosDeployment, after: float) -> float:
    """Seconds from an instant (of `time.monotonic`) to the next beginning of a step."""
    begun = eventually(lambda: [line["at"] for line in deployment.effects() if line["at"] > after], "a step begins")
    return float(min(begun)) - after


def nothing_is_lost_or_repeated(deployment: ChaosDeployment) -> None:
    """No process was declared dead, and no step was begun by two."""
    assert deployment.counter("losses") == 0
    begun: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for line in deployment.effects():
        begun[line["run"], line["work"], line["what"], line["attempt"]].append(f"{line['token']} in {line['pid']}")
    twice = {item: tokens for item, tokens in begun.items() if len(tokens) > 1}
    assert not twice, f"steps were begun more than once in one attempt: {twice}"

"""How a fault test ends: it waits for all runs, checks the invariants and adds the measurements to the report."""

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

#: Seed of tests without randomness: they run once, not once per seed.
ONE_SEED = 1

#: Pool -> concurrency of its worker. A prefork child sends scripts one by one, an asyncio worker sends them grouped.
POOLS = {"prefork": 2, "asyncio": 30}


def start_workers(deployment: ChaosDeployment, *pools: str) -> None:
    """Start a worker of each pool and wait until all of them consume messages."""
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
    """Await all runs, check the invariants and record the measurements; fails when an invariant is violated.

    Args:
        report: The report of the test session.
        fault: Number and description of the fault.
        load: The runs.
        seed: The seed of this test.
        recovery_seconds: Times from the fault to the next progress.
        deaths: Killed processes and the time of each kill; used to measure how long their steps were idle.
        seconds: The time limit for all runs.
        is_set_back: Redis has gone back to an earlier point: the effect log has effects that Redis no longer knows,
            so effects are not checked.
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
    """Check the invariants that need only Redis, not the effect log."""
    deployment = load.deployment
    try:
        eventually(lambda: not see_leftovers(deployment).indexed, "nothing is under way")
    except AssertionError as error:
        raise AssertionError(f"{error}; left: {see_leftovers(deployment).indexed}") from None
    runs = see_runs(deployment, load.seen.values())
    for run in runs:
        run.effects = []
    return violations(runs, see_leftovers(deployment))


def next_progress(deployment: ChaosDeployment, after: float) -> float:
    """Return the seconds from an instant (of `time.monotonic`) to the next start of a step."""
    begun = eventually(lambda: [line["at"] for line in deployment.effects() if line["at"] > after], "a step begins")
    return float(min(begun)) - after


def nothing_is_lost_or_repeated(deployment: ChaosDeployment) -> None:
    """Check that no process was declared dead and no step was started by two processes."""
    assert deployment.counter("losses") == 0
    begun: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for line in deployment.effects():
        begun[line["run"], line["work"], line["what"], line["attempt"]].append(f"{line['token']} in {line['pid']}")
    twice = {item: tokens for item, tokens in begun.items() if len(tokens) > 1}
    assert not twice, f"steps were begun more than once in one attempt: {twice}"

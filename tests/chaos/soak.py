"""Random faults over thousands of mixed runs: `make soak MINUTES=15`, or `make soak SEED=…` to repeat one.

Works in rounds: runs start as fast as a bounded backlog allows while faults follow each other. Then every fault is
healed and the deployment must become idle; each run and the rest in Redis are checked. Exits with 1 on a violation.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from support.chaos.deployment import ChaosDeployment
from support.chaos.flows import KINDS, Links, Spread, Tells
from support.chaos.invariants import Violation
from support.chaos.mixed_load import Load
from support.chaos.observed import RunSeen
from support.chaos.reading_along import ReadingAlong
from support.chaos.recoveries import recovery_seconds
from support.chaos.recovery_report import at
from support.eventually import eventually
from support.faults.monkey import Monkey
from support.faults.redis_under_test import RedisUnderTest
from support.processes.driving import descendants
from umbel.orchestration.model.errors import UmbelError
from umbel.workers.embedded.supervisor import Supervisor

#: The maximum number of concurrent runs, and the number of runs per round.
BACKLOG, ROUND = 60, 400
#: The slowest run of a round is reported if it took longer: no run may stall without a reason.
SLOW_SECONDS = 20.0
WORKERS = ("prefork", "asyncio", "asyncio")


@dataclass
class Sums:
    """The totals of all rounds."""

    runs: int = 0
    executions: int = 0
    absorbed: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    lasted: list[float] = field(default_factory=list)
    rests: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


class Soak:
    """A deployment, the monkey that injects faults, and the totals."""

    def __init__(self, folder: Path, supervisor: Supervisor, seed: int) -> None:
        self.seed, self.sums = seed, Sums()
        self.random = random.Random(f"soak {seed}")
        self.server = RedisUnderTest(folder / "redis", supervisor)
        # A loss is charged to a step that runs alone when its process dies; here that happens all the time.
        settings = {"max_losses": 50, "retention_seconds": 120.0}
        self.deployment = ChaosDeployment(self.server.url, folder / "deployment", supervisor, **settings)
        self.deployment.runtime.store.patience_seconds = 60.0
        self.deployment.seed = seed
        self.monkey = Monkey(self.deployment, self.server, seed)
        for pool in WORKERS:
            self.monkey.employ(pool)

    def round(self, until: float) -> None:
        """Run one round: load and faults, then idle, then checks."""
        known = len(self.sums.violations)
        load, readers = Load(self.deployment, self.random.randrange(10**9)), list[ReadingAlong]()
        begun: dict[str, float] = {}
        lasted: dict[str, float] = {}
        going: set[str] = set()
        strike_at = time.monotonic() + 1.0
        while (len(load.seen) < ROUND and time.monotonic() < until) or going:
            self.monkey.heal_what_is_due()
            self.sums.violations += [f"I10: {text}" for text in self.monkey.replace_the_dead()]
            wanted = ROUND if time.monotonic() < until else 0
            while len(going) < BACKLOG and len(load.seen) < wanted:
                run_id = load.start_some(self.random.choice(KINDS), seconds=0.3)
                begun[run_id] = time.monotonic()
                going.add(run_id)
                if load.seen[run_id].kind == Tells.KIND:
                    readers.append(ReadingAlong(self.deployment.runtime, run_id, self.seed))
            load.answer(chance=0.2)
            if time.monotonic() > strike_at and len(load.seen) < ROUND:
                self.monkey.strike()
                strike_at = time.monotonic() + self.random.uniform(0.2, 1.6)
            if len(load.seen) >= ROUND or time.monotonic() > until:
                self.monkey.heal()
            for run_id in load.ended(going):
                going.discard(run_id)
                lasted[run_id] = time.monotonic() - begun[run_id]
            stuck = [run_id for run_id in going if time.monotonic() - begun[run_id] > 90]
            if stuck:
                self.sums.violations += [f"I9: run {run_id} has been going on for 90 s" for run_id in stuck]
                break
            time.sleep(0.1)
        self._rest(load, readers)
        self.sums.lasted += lasted.values()
        slowest = max(lasted, key=lasted.__getitem__, default=None)
        if slowest is not None and lasted[slowest] > SLOW_SECONDS:
            print(f"slow: {lasted[slowest]:.0f} s, {longest_pause(load.seen[slowest])}", flush=True)
        if len(self.sums.violations) > known:
            self._keep(load)
            print("\n".join(self.sums.violations[known:]), flush=True)
        (self.deployment.folder / "effects").unlink(missing_ok=True)

    def _rest(self, load: Load, readers: list[ReadingAlong]) -> None:
        self.monkey.heal()
        self.sums.violations += [f"I10: {text}" for text in self.monkey.replace_the_dead()]
        load.await_all(60.0)
        for reader in readers:
            load.seen[reader.run_id].read = reader.finish()
        self.sums.violations += self._idle_workers(load)
        load.await_all(60.0)
        before = time.monotonic()
        found: list[Violation] = load.judge(seconds=60.0)
        self.sums.rests.append(time.monotonic() - before)
        killed = self.deployment.killed_by_failpoints()
        self.sums.recoveries += recovery_seconds(load.seen.values(), {**killed, **self.monkey.deaths})
        self.sums.violations += map(str, found)
        self.sums.runs += len(load.seen)
        self.sums.executions += load.executions()

    def _idle_workers(self, load: Load) -> list[str]:
        """Every worker must still take work: start runs until each worker has executed a step."""
        try:
            eventually(self._none_is_leaving, "all workers that were asked to end have ended", seconds=60)
        except AssertionError as error:
            return [f"I10: {error}: {[each.name for each in self.deployment.workers]}"]
        for worker in self.deployment.workers:
            worker.wait_ready()
        since = time.monotonic()
        while time.monotonic() < since + 20:
            load.start(12, (Spread, Links), seconds=0.1)
            load.await_all(20)
            pids = {line["pid"] for line in self.deployment.effects() if line["at"] > since}
            idle = [each for each in self.deployment.workers if not pids & (descendants(each.pid) | {each.pid})]
            if not idle:
                return []
        return [f"I10: worker {each.name} takes no messages any more" for each in idle]

    def _none_is_leaving(self) -> bool:
        self.sums.violations += [f"I10: {text}" for text in self.monkey.replace_the_dead()]
        return not any(each.pid in self.monkey.leaving for each in self.deployment.workers)

    def _keep(self, load: Load) -> None:
        """Keep the files that help to understand a violation."""
        kept = Path(tempfile.mkdtemp(prefix="umbel-soak-"))
        (kept / "diary").write_text("\n".join(self.monkey.diary))
        (kept / "effects").write_bytes((self.deployment.folder / "effects").read_bytes())
        for run in load.seen.values():
            if any(run.run_id in text for text in self.sums.violations):
                lines = [f"{at} {kind} {data}" for at, kind, data in run.journal]
                (kept / f"journal-{run.run_id}").write_text("\n".join(lines))
        for log in self.deployment.folder.glob("*.log"):
            (kept / log.name).write_bytes(log.read_bytes())
        print(f"kept in {kept}", flush=True)

    def close(self) -> None:
        """Stop everything."""
        self.sums.absorbed = Load(self.deployment, 0).absorbed()
        self.sums.faults = self.monkey.done
        self.monkey.close()
        self.deployment.close()
        self.server.close()


def longest_pause(run: RunSeen) -> str:
    """Return the longest pause between two journal entries of a run, and when it was."""
    if len(run.journal) < 2:
        return f"run {run.run_id} ({run.kind}) has no journal: {run.journal}"
    pauses = [(later[0] - earlier[0], earlier, later) for earlier, later in pairwise(run.journal)]
    milliseconds, (at, before, _), (_, after, _) = max(pauses, key=lambda pause: pause[0])
    when = f"{datetime.fromtimestamp(at / 1000):%H:%M:%S}"
    return f"run {run.run_id} ({run.kind}) stood still for {milliseconds / 1000:.1f} s from {when}, {before} to {after}"


def summary(sums: Sums, seed: int, seconds: float) -> list[str]:
    """Return the lines of the report."""
    rows = [
        ("seed", str(seed)),
        ("minutes", f"{seconds / 60:.1f}"),
        ("runs", str(sums.runs)),
        ("executions of steps", str(sums.executions)),
        ("duplicates absorbed", str(sums.absorbed)),
        ("faults", str(sum(sums.faults.values()))),
        *((f"  {name}", str(times)) for name, times in sorted(sums.faults.items())),
        ("steps broken off", str(len(sums.recoveries))),
        ("  recovery p50, p99, max", ", ".join(f"{at(sums.recoveries, share):.2f} s" for share in (0.5, 0.99, 1.0))),
        ("a run lasted p50, p99, max", ", ".join(f"{at(sums.lasted, share):.1f} s" for share in (0.5, 0.99, 1.0))),
        ("coming to rest, max", f"{max(sums.rests, default=0.0):.1f} s"),
        ("violations", str(len(sums.violations))),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {value}" for name, value in rows]


def main() -> int:
    """Run the soak, print the report, and return 1 on a violation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    options = parser.parse_args()
    began = time.monotonic()
    print(f"soaking for {options.minutes:g} minutes; again with: make soak SEED={options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="umbel-soak-") as folder, Supervisor() as supervisor:
        soak = Soak(Path(folder), supervisor, options.seed)
        try:
            while time.monotonic() < began + 60 * options.minutes:
                soak.round(began + 60 * options.minutes)
                sums = soak.sums
                done, minutes = sum(soak.monkey.done.values()), (time.monotonic() - began) / 60
                print(
                    f"{minutes:5.1f} min: {sums.runs} runs, {done} faults, {len(sums.violations)} violations",
                    flush=True,
                )
        except UmbelError as error:
            soak.sums.violations.append(f"the driver: {error!r}")
        finally:
            soak.close()
    for line in summary(soak.sums, options.seed, time.monotonic() - began):
        print(line)
    for text in soak.sums.violations:
        print("violation:", text)
    if soak.sums.violations:
        print(f"replay with: make soak SEED={options.seed} MINUTES={options.minutes:g}")
    return 1 if soak.sums.violations else 0


if __name__ == "__main__":
    sys.exit(main())

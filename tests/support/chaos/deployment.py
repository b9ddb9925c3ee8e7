"""A deployment that is meant to suffer: workers of the chaos workflows, armed with failpoints if a test wants so."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.eventually import eventually
from support.processes.driving import Deployment, WorkerUnderTest, descendants

#: What a worker of the chaos suite serves.
TARGETS = ("support.chaos.flows", "support.chaos.wider_flows", "support.chaos.special_flows")


class ChaosDeployment(Deployment):
    """Workers and a client on the Redis of one test."""

    #: Decides what the failpoints of its workers do.
    seed = 1

    @property
    def failpoint_log(self) -> Path:
        """What failpoints were hit and what they did, one line each."""
        return self.folder / "failpoints"

    def worker(
        self, name: str, *targets: str, pool: str = "prefork", failpoints: str | None = None, **more: Any
    ) -> WorkerUnderTest:
        """Start a worker of the chaos workflows; with failpoints as `orchestration/connection/failpoints.py` says.

        Without any, it only notes what it passes.
        """
        environment = {"UMBEL_FAILPOINTS": self.armed(failpoints or "", name)} | more.pop("more", {})
        return super().worker(name, *(targets or TARGETS), pool=pool, more=environment, **more)

    def armed(self, failpoints: str, name: str) -> str:
        """A specification with the seed of this process and the common log."""
        return f"{failpoints};seed={self.seed}.{name};log={self.failpoint_log}"

    def workers_at(self, *names: str, **options: Any) -> list[WorkerUnderTest]:
        """Start workers and wait until all are ready."""
        made = [self.worker(name, **options) for name in names]
        return [worker.wait_ready() for worker in made]

    def failpoints_hit(self) -> set[str]:
        """Names of all places that any process has passed."""
        return {line.split()[0] for line in self._failpoint_lines()}

    def failpoints_fired(self) -> list[tuple[str, str]]:
        """Place and action of all that was done."""
        entries = [line.split() for line in self._failpoint_lines()]
        return [(name, action) for name, action, *_ in entries if action != "hit"]

    def _failpoint_lines(self) -> list[str]:
        with suppress(FileNotFoundError):
            return self.failpoint_log.read_text().splitlines()
        return []

    def worker_of(self, pid: int) -> WorkerUnderTest:
        """The living worker that a process belongs to."""
        return next(worker for worker in self.workers if pid in descendants(worker.pid) | {worker.pid})

    def dismiss(self, worker: WorkerUnderTest) -> None:
        """Forget a worker that has ended: it is nobody whose end must be explained."""
        worker.process.wait()
        self.workers.remove(worker)
        self._supervisor.forget(worker.pid)

    def killed_by_failpoints(self) -> dict[int, float]:
        """Processes that a failpoint has killed, and when, on the clock of the effects."""
        behind = time.time() - time.monotonic()
        entries = [line.split() for line in self._failpoint_lines()]
        return {int(pid): float(at) - behind for _, action, pid, at in entries if action == "kill"}


#: Makes deployments; what the fixture `deploy_chaos` hands out.
DeployChaos = Callable[..., ChaosDeployment]


def stop_group(worker: WorkerUnderTest) -> None:
    """SIGSTOP to all of a worker: a virtual machine that is paused."""
    os.killpg(worker.pid, signal.SIGSTOP)


def continue_group(worker: WorkerUnderTest) -> None:
    """SIGCONT to all of it."""
    os.killpg(worker.pid, signal.SIGCONT)


def await_idle(deployment: Deployment, seconds: float = 40.0) -> None:
    """Wait until no lease, dispatch or due timer is left in any shard."""
    store = deployment.store

    def left() -> bool:
        pipe = store.client.pipeline(transaction=False)
        for shard in range(deployment.settings.shards):
            for name in ("leases", "unclaimed", "retire", "releasing", "outbox"):
                pipe.exists(store.keys.in_shard(shard, name))
        return any(pipe.execute())

    eventually(lambda: not left(), "no lease, dispatch or ended run is left to be looked after", seconds=seconds)

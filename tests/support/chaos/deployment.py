"""A deployment for fault injection: workers of the chaos workflows, with failpoints where a test needs them."""

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

#: The workflows that a worker of the chaos suite serves.
TARGETS = ("support.chaos.flows", "support.chaos.wider_flows", "support.chaos.special_flows")


class ChaosDeployment(Deployment):
    """Workers and a client on the Redis of one test."""

    #: Seeds the failpoints of its workers.
    seed = 1

    @property
    def failpoint_log(self) -> Path:
        """The log of all failpoints that were hit and of their actions, one line each."""
        return self.folder / "failpoints"

    def worker(
        self, name: str, *targets: str, pool: str = "prefork", failpoints: str | None = None, **more: Any
    ) -> WorkerUnderTest:
        """Start a worker of the chaos workflows; `orchestration/connection/failpoints.py` explains `failpoints`.

        Without any, it only logs the failpoints that it passes.
        """
        environment = {"UMBEL_FAILPOINTS": self.armed(failpoints or "", name)} | more.pop("more", {})
        return super().worker(name, *(targets or TARGETS), pool=pool, more=environment, **more)

    def armed(self, failpoints: str, name: str) -> str:
        """Return a specification with the seed of this process and the shared log."""
        return f"{failpoints};seed={self.seed}.{name};log={self.failpoint_log}"

    def workers_at(self, *names: str, **options: Any) -> list[WorkerUnderTest]:
        """Start workers and wait until all are ready."""
        made = [self.worker(name, **options) for name in names]
        return [worker.wait_ready() for worker in made]

    def failpoints_hit(self) -> set[str]:
        """Return the names of all failpoints that any process has passed."""
        return {line.split()[0] for line in self._failpoint_lines()}

    def failpoints_fired(self) -> list[tuple[str, str]]:
        """Return failpoint and action of every action that was taken."""
        entries = [line.split() for line in self._failpoint_lines()]
        return [(name, action) for name, action, *_ in entries if action != "hit"]

    def _failpoint_lines(self) -> list[str]:
        with suppress(FileNotFoundError):
            return self.failpoint_log.read_text().splitlines()
        return []

    def worker_of(self, pid: int) -> WorkerUnderTest:
        """Return the live worker that a process belongs to."""
        return next(worker for worker in self.workers if pid in descendants(worker.pid) | {worker.pid})

    def dismiss(self, worker: WorkerUnderTest) -> None:
        """Forget a worker that has ended, so that its end needs no explanation."""
        worker.process.wait()
        self.workers.remove(worker)
        self._supervisor.forget(worker.pid)

    def killed_by_failpoints(self) -> dict[int, float]:
        """Return the processes that a failpoint has killed, with the time of each kill on the clock of the effects."""
        behind = time.time() - time.monotonic()
        entries = [line.split() for line in self._failpoint_lines()]
        return {int(pid): float(at) - behind for _, action, pid, at in entries if action == "kill"}


#: Makes deployments; the value of the fixture `deploy_chaos`.
DeployChaos = Callable[..., ChaosDeployment]


def stop_group(worker: WorkerUnderTest) -> None:
    """Send SIGSTOP to all processes of a worker, like a virtual machine that is paused."""
    os.killpg(worker.pid, signal.SIGSTOP)


def continue_group(worker: WorkerUnderTest) -> None:
    """Send SIGCONT to all processes of a worker."""
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

"""A deployment under test: settings of its own on a shared Redis, worker processes, and what they did."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from support import TESTS
from support.eventually import eventually
from support.flows import everyday as process_flows
from support.store.blocking import store_of
from umbel import Settings, Workflow, WorkflowHandler
from umbel.orchestration.inspection.metrics import read_metrics
from umbel.orchestration.inspection.timeline import Execution, executions
from umbel.tasks.client.runtime import Runtime
from umbel.workers.embedded.supervisor import Supervisor
from umbel.workers.local.command_process import process_environment

#: Times with which recoveries take a moment.
QUICK = {
    "lease_seconds": 2.0,
    "heartbeat_seconds": 0.4,
    "sweep_seconds": 0.2,
    "history_pack_after_seconds": 1.0,
    "history_checkpoint_every": 20,
    "redispatch_seconds": 1.0,
    "drain_seconds": 5.0,
}
#: Times with which no lease runs out and no heartbeat comes within a test: what is seen happened for another reason.
LONG_LEASES = {"lease_seconds": 120.0, "heartbeat_seconds": 50.0, "sweep_seconds": 0.2, "redispatch_seconds": 60.0}


def parents() -> dict[int, int]:
    """The parent of each living process; zombies count as dead."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if state not in "ZX":
                    found[int(entry.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    """All living processes below this one."""
    known = parents()
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in known.items() if parent in level} - found
        found |= level
    return found


def is_alive(pid: int) -> bool:
    """Whether there is such a process, zombies not counted."""
    return pid in parents()


class WorkerUnderTest:
    """One worker: a main process and, in prefork, its children; all in one process group."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self.log_file = name, process, log

    @property
    def pid(self) -> int:
        """Of the main process."""
        return self.process.pid

    def log(self) -> str:
        """What it has printed so far."""
        return self.log_file.read_text(errors="replace")

    @property
    def is_ready(self) -> bool:
        """Whether it takes messages."""
        return " ready." in self.log()

    def wait_ready(self) -> WorkerUnderTest:
        """Wait until it takes messages."""

        def is_ready() -> bool:
            assert self.process.poll() is None, f"worker {self.name} ended: {self.log()}"
            return self.is_ready

        eventually(is_ready, f"worker {self.name} is ready")
        return self

    def kill_group(self) -> None:
        """SIGKILL to all of it at once."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def kill_main(self) -> None:
        """SIGKILL to the main process alone."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Ask it to end, as a supervisor does."""
        self.process.terminate()


class Deployment:
    """Workers and a client on one Redis, kept apart from other deployments there by a key prefix."""

    def __init__(self, redis_url: str, folder: Path, supervisor: Supervisor, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._supervisor = folder, supervisor
        self.settings = Settings(redis_url=redis_url, key_prefix=f"p{secrets.token_hex(5)}", **(QUICK | settings))
        self.runtime = Runtime(self.settings)
        self.store = store_of(self.runtime)
        self.workers: list[WorkerUnderTest] = []

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process part of this deployment."""
        path = os.pathsep.join(dict.fromkeys([str(TESTS), *(path for path in sys.path if path)]))
        return process_environment(self.settings) | {
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            process_flows.FOLDER: str(self.folder),
        }

    def launch(
        self, name: str, *command: str, more: dict[str, str] | None = None, within: Sequence[str] = ()
    ) -> WorkerUnderTest:
        """Start a process that is gone at the end, with its output in a file.

        `more` is for its environment; `within` is a command that becomes it.
        """
        log = self.folder / f"{name}.log"
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = self._supervisor.spawn(
                [*within, sys.executable, "-m", *command],
                cwd=self.folder,
                env=self.environment | (more or {}),
                output=descriptor,
                grace_seconds=1,
            )
        finally:
            os.close(descriptor)
        worker = WorkerUnderTest(name, process, log)
        self.workers.append(worker)
        return worker

    def worker(
        self,
        name: str,
        *targets: str,
        pool: str = "prefork",
        concurrency: int = 2,
        queues: str | None = None,
        events: bool = False,
        log_level: str = "INFO",
        more: dict[str, str] | None = None,
    ) -> WorkerUnderTest:
        """Start a worker, by default for all of `support.flows.everyday`. It need not be ready yet.

        Log level INFO is what a worker has by default; at DEBUG it logs each step and each message.
        """
        options = ["--name", name, "--pool", pool, "--concurrency", str(concurrency), "--loglevel", log_level]
        options += ["--task-events"] if events else []
        if queues is not None:
            options += ["--queues", queues]
        return self.launch(
            name, "umbel.workers.cli", "worker", *(targets or ("support.flows.everyday",)), *options, more=more
        )

    def start(self, workflow: type[Workflow], run_id: str | None = None, **fields: Any) -> WorkflowHandler:
        """Start a run here, without a time limit."""
        return workflow(runtime=self.runtime, timeout=None).start(run_id=run_id, **fields)

    def open_gate(self, gate: str) -> None:
        """Let the steps go on that are held at this gate."""
        (self.folder / f"gate-{gate}").touch()

    def effects(self, what: str | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """What steps have noted so far."""
        with suppress(FileNotFoundError):
            written = (self.folder / "effects").read_text()
            # What stands behind the last line's end is a line that is being written.
            lines = [json.loads(line) for line in written[: written.rfind("\n") + 1].splitlines()]
            return [
                line
                for line in lines
                if (what is None or line["what"] == what) and (run_id is None or line.get("run") == run_id)
            ]
        return []

    def await_effects(self, what: str, count: int = 1, run_id: str | None = None) -> list[dict[str, Any]]:
        """Wait until steps have noted this so often."""
        found: list[dict[str, Any]] = eventually(
            lambda: (seen := self.effects(what, run_id)) and len(seen) >= count and seen, f"{count} times {what!r}"
        )
        return found

    def executions(self, run_id: str) -> list[Execution]:
        """All executions of a run that have ended, from its journal."""
        return executions(self.store.journal(run_id))

    def journal_kinds(self, run_id: str) -> list[str]:
        """What kinds of things have happened to a run."""
        return [kind for _, kind, _ in self.store.journal(run_id)]

    def counter(self, name: str) -> int:
        """One of the deployment's counters, over all shards."""
        store = self.store
        shards = range(self.settings.shards)
        return sum(int(store.client.hget(store.keys.in_shard(s, "counters"), name) or 0) for s in shards)

    def observed(self, step: str) -> int:
        """How many attempts of a step are in the deployment's histograms."""
        steps = self.store.call(read_metrics, self.store).steps
        return sum(took.count for (_, name), took in steps.items() if name == step)

    def close(self) -> None:
        """End everything."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.process.wait()
            self._supervisor.forget(worker.pid)
        self.runtime.close()
        self.store.client.close()


#: Makes a deployment; what the fixtures of that name hand out.
Deploy = Callable[..., Deployment]


def assert_committed_once(found: list[Execution]) -> None:
    """Each work item has exactly one outcome that is not a retry or a loss."""
    final = [each.work_id for each in found if each.outcome in ("done", "failed", "rescued")]
    assert len(final) == len(set(final)), "an outcome was committed twice"
    assert {each.work_id for each in found} == set(final), "an outcome is missing"

"""A deployment under test: its own settings on a shared Redis, worker processes, and what they did."""

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

#: Timings that make recovery fast.
QUICK = {
    "lease_seconds": 2.0,
    "heartbeat_seconds": 0.4,
    "sweep_seconds": 0.2,
    "history_pack_after_seconds": 1.0,
    "history_checkpoint_every": 20,
    "redispatch_seconds": 1.0,
    "drain_seconds": 5.0,
}
#: Timings with which no lease expires and no heartbeat happens within a test, so that neither can cause an effect.
LONG_LEASES = {"lease_seconds": 120.0, "heartbeat_seconds": 50.0, "sweep_seconds": 0.2, "redispatch_seconds": 60.0}


def parents() -> dict[int, int]:
    """Return the parent of each live process; zombies count as dead."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if state not in "ZX":
                    found[int(entry.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    """Return all live descendants of a process."""
    known = parents()
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in known.items() if parent in level} - found
        found |= level
    return found


def is_alive(pid: int) -> bool:
    """Return whether the process is alive; zombies count as dead."""
    return pid in parents()


class WorkerUnderTest:
    """One worker: a main process and, in prefork, its children; all in one process group."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self.log_file = name, process, log

    @property
    def pid(self) -> int:
        """PID of the main process."""
        return self.process.pid

    def log(self) -> str:
        """Return its output so far."""
        return self.log_file.read_text(errors="replace")

    @property
    def is_ready(self) -> bool:
        """Whether it consumes messages."""
        return " ready." in self.log()

    def wait_ready(self) -> WorkerUnderTest:
        """Wait until it consumes messages."""

        def is_ready() -> bool:
            assert self.process.poll() is None, f"worker {self.name} ended: {self.log()}"
            return self.is_ready

        eventually(is_ready, f"worker {self.name} is ready")
        return self

    def kill_group(self) -> None:
        """SIGKILL all its processes at once."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def kill_main(self) -> None:
        """SIGKILL the main process alone."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Send SIGTERM, as a supervisor does."""
        self.process.terminate()


class Deployment:
    """Workers and a client on one Redis, isolated from other deployments there by a key prefix."""

    def __init__(self, redis_url: str, folder: Path, supervisor: Supervisor, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._supervisor = folder, supervisor
        self.settings = Settings(redis_url=redis_url, key_prefix=f"p{secrets.token_hex(5)}", **(QUICK | settings))
        self.runtime = Runtime(self.settings)
        self.store = store_of(self.runtime)
        self.workers: list[WorkerUnderTest] = []

    @property
    def environment(self) -> dict[str, str]:
        """The environment that makes a process part of this deployment."""
        path = os.pathsep.join(dict.fromkeys([str(TESTS), *(path for path in sys.path if path)]))
        return process_environment(self.settings) | {
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            process_flows.FOLDER: str(self.folder),
        }

    def launch(
        self, name: str, *command: str, more: dict[str, str] | None = None, within: Sequence[str] = ()
    ) -> WorkerUnderTest:
        """Start a process that is stopped when the deployment closes, with its output in a file.

        `more` adds to its environment; `within` is a command that executes it.
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
        """Start a worker, by default with all of `support.flows.everyday`; it may not be ready yet.

        The default log level of a worker is INFO; at DEBUG it logs each step and each message.
        """
        options = ["--name", name, "--pool", pool, "--concurrency", str(concurrency), "--loglevel", log_level]
        options += ["--task-events"] if events else []
        if queues is not None:
            options += ["--queues", queues]
        return self.launch(
            name, "umbel.workers.cli", "worker", *(targets or ("support.flows.everyday",)), *options, more=more
        )

    def start(self, workflow: type[Workflow], run_id: str | None = None, **fields: Any) -> WorkflowHandler:
        """Start a run from this process, without a time limit."""
        return workflow(runtime=self.runtime, timeout=None).start(run_id=run_id, **fields)

    def open_gate(self, gate: str) -> None:
        """Release the steps that are held at this gate."""
        (self.folder / f"gate-{gate}").touch()

    def effects(self, what: str | None = None, run_id: str | None = None) -> list[dict[str, Any]]:
        """Return what steps have logged so far."""
        with suppress(FileNotFoundError):
            written = (self.folder / "effects").read_text()
            # Text after the last newline is an incomplete line.
            lines = [json.loads(line) for line in written[: written.rfind("\n") + 1].splitlines()]
            return [
                line
                for line in lines
                if (what is None or line["what"] == what) and (run_id is None or line.get("run") == run_id)
            ]
        return []

    def await_effects(self, what: str, count: int = 1, run_id: str | None = None) -> list[dict[str, Any]]:
        """Wait until steps have logged this effect `count` times."""
        found: list[dict[str, Any]] = eventually(
            lambda: (seen := self.effects(what, run_id)) and len(seen) >= count and seen, f"{count} times {what!r}"
        )
        return found

    def executions(self, run_id: str) -> list[Execution]:
        """Return all finished executions of a run, from its journal."""
        return executions(self.store.journal(run_id))

    def journal_kinds(self, run_id: str) -> list[str]:
        """Return the kinds of a run's journal entries."""
        return [kind for _, kind, _ in self.store.journal(run_id)]

    def counter(self, name: str) -> int:
        """Return one of the deployment's counters, summed over all shards."""
        store = self.store
        shards = range(self.settings.shards)
        return sum(int(store.client.hget(store.keys.in_shard(s, "counters"), name) or 0) for s in shards)

    def observed(self, step: str) -> int:
        """Return how many attempts of a step the deployment's histograms have."""
        steps = self.store.call(read_metrics, self.store).steps
        return sum(took.count for (_, name), took in steps.items() if name == step)

    def close(self) -> None:
        """Stop everything."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.process.wait()
            self._supervisor.forget(worker.pid)
        self.runtime.close()
        self.store.client.close()


#: Makes a deployment; the value of the fixtures `deploy` and `deploy_for_module`.
Deploy = Callable[..., Deployment]


def assert_committed_once(found: list[Execution]) -> None:
    """Assert that each work item has exactly one outcome that is neither a retry nor a loss."""
    final = [each.work_id for each in found if each.outcome in ("done", "failed", "rescued")]
    assert len(final) == len(set(final)), "an outcome was committed twice"
    assert {each.work_id for each in found} == set(final), "an outcome is missing"

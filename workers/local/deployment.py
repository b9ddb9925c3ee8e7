"""Starts everything: a real Redis and a real Celery worker, both ended when the block ends.

    with umbel.local(in_process=True):           # a program, a notebook, a test: classes may be defined anywhere
        result = await MyFlow().run(topic="…")

    with umbel.local():                          # worker processes, as in production
        result = MyFlow().start(topic="…").result()

    deployment = umbel.local(in_process=True).open()   # the first cell of a notebook
    deployment.close()                                 # the last one

The code path is the production one: same scripts, same broker messages, same Celery worker.
"""

from __future__ import annotations

import asyncio
import atexit
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...orchestration.connection.settings import Settings
from ...orchestration.model.decide import Limits
from ...orchestration.model.errors import ConfigurationError
from ...tasks.client.runtime import Runtime, keep_default_runtime, use_runtime
from ...tasks.llama_index.workflow import agent_name, module_with
from ...tasks.values.class_names import module_path
from ...tasks.workflow.definition import WorkflowDefinition
from ...tasks.workflow.registry import Registrable
from ..celery_app.app import Installation, create_app
from ..embedded.redis_server import EmbeddedRedis
from ..embedded.supervisor import Supervisor
from .command_process import process_environment, worker_command
from .in_process import InProcessWorker


def local(
    *targets: str | Registrable,
    in_process: bool = False,
    concurrency: int | None = None,
    pool: str = "asyncio",
    folder: Path | None = None,
    settings: Settings | None = None,
) -> LocalDeployment:
    """A whole deployment for a `with` block, or from `open()` to `close()`; runs started meanwhile use it.

    It lives in a temporary folder and leaves nothing behind, even if this process is killed. The `with` block gets the
    deployment's runtime, which is the default runtime meanwhile.

    Args:
        *targets: What the worker loads, as for `umbel worker`; by default the module of each workflow that is run.
        in_process: The worker is a thread of this process. Async steps run on the event loop that called `run()`, so
            closures and asyncio objects may be shared; plain `def` steps run in threads.
        concurrency: Concurrent steps per worker; by default 1000 with the asyncio pool, the number of processors with
            another pool, 100 in process.
        pool: Celery pool of a worker process.
        folder: Keep the data in this folder instead of a temporary one.
        settings: Base settings; by default from `UMBEL_*`. The embedded Redis replaces their Redis and broker.

    Raises:
        EmbeddedRedisUnavailable: Raised on opening, not here: there is no Redis server; the text says how to get one.
    """
    return LocalDeployment(partial(_deployed, targets, in_process, concurrency, pool, folder, settings))


class LocalDeployment(AbstractContextManager[Runtime]):
    """What `local()` returns. As with a file, a `with` block closes what it or `open()` opened."""

    def __init__(self, deploy: Callable[[], AbstractContextManager[Runtime]]) -> None:
        self._deploy = deploy
        self._deployed: AbstractContextManager[Runtime] | None = None
        self._runtime: Runtime | None = None

    def open(self) -> Self:
        """Start everything and return; for a notebook, whose cells cannot share a `with` block.

        A deployment that is open when the program ends is closed then. Opening it again does nothing.

        Raises:
            EmbeddedRedisUnavailable: There is no Redis server; the text says how to get one.
        """
        if self._deployed is None:
            deployed = self._deploy()
            self._runtime = deployed.__enter__()
            self._deployed = deployed
            atexit.register(self.close)
        return self

    def close(self) -> None:
        """Stop everything and remove the temporary folder. May be called twice, and `open()` afterwards."""
        atexit.unregister(self.close)
        deployed, self._deployed, self._runtime = self._deployed, None, None
        if deployed is not None:
            deployed.__exit__(None, None, None)

    @property
    def runtime(self) -> Runtime:
        """The runtime of the open deployment.

        Raises:
            ConfigurationError: It is not open.
        """
        if self._runtime is None:
            raise ConfigurationError("This local deployment is not open. Call its open(), or use it in a `with` block.")
        return self._runtime

    def __enter__(self) -> Runtime:
        return self.open().runtime

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _deployed(
    targets: tuple[str | Registrable, ...],
    in_process: bool,
    concurrency: int | None,
    pool: str,
    folder: Path | None,
    settings: Settings | None,
) -> Iterator[Runtime]:
    base = Settings.from_environment() if settings is None else settings
    with ExitStack() as stack:
        stack.enter_context(keep_default_runtime())  # making a worker's app sets another one
        supervisor = stack.enter_context(Supervisor())
        redis = (
            EmbeddedRedis.temporary(supervisor=supervisor)
            if folder is None
            else EmbeddedRedis.in_folder(folder, supervisor=supervisor)
        )
        stack.enter_context(redis)
        chosen = base.model_copy(update={"redis_url": redis.url, "broker_url": None})
        runtime: Runtime
        if in_process:
            runtime = InProcessRuntime(chosen, targets, concurrency or 100)
        else:
            runtime = _WorkerProcessRuntime(chosen, targets, supervisor, concurrency, pool)
        stack.callback(runtime.close)
        yield stack.enter_context(use_runtime(runtime))


class InProcessRuntime(Runtime):
    """Runs are executed by a worker thread of this process."""

    def __init__(self, settings: Settings, targets: tuple[Any, ...], concurrency: int) -> None:
        app = create_app(settings)
        self._installation: Installation = app.umbel
        super().__init__(settings, app=app, registry=self._installation.registry)
        self.registry.executes = True
        self._adding = threading.RLock()
        self._loops: dict[str, asyncio.AbstractEventLoop] = {}
        self._installation.loop_of = lambda run_id: self._loops.get(run_id)
        self._worker = InProcessWorker(app, concurrency)
        self._installation.registry.prepare = self._add
        for target in targets:
            if isinstance(target, str):
                raise ConfigurationError(
                    f"local(in_process=True) takes workflows, not the target {target!r}: import and pass them, or pass "
                    "nothing, since each workflow that is run is loaded anyway."
                )
            self._worker.add(self._installation.add(target))
        self._worker.start()

    def prepare(self, workflow: WorkflowDefinition, run_id: str) -> None:
        """Add the workflow to the worker, and remember the loop that its async steps run on."""
        self._add(workflow)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        # Without this, the dictionary would grow with every run of a program with many loops.
        self._loops = {run: kept for run, kept in self._loops.items() if not kept.is_closed()}
        self._loops[run_id] = loop

    def _add(self, workflow: WorkflowDefinition) -> None:
        # Of threads that run a new workflow at the same time, none may go on before its tasks are known to the worker.
        with self._adding:
            self._worker.add(self._installation.add(workflow, to_run=True))

    def close(self) -> None:
        """Stop the worker, then the connections."""
        self._worker.stop()
        self._installation.close()
        super().close()


class _WorkerProcessRuntime(Runtime):
    """Runs are executed by worker processes: one for all given targets, and one for each other module at its first run.

    Each has its own default queue, because it lacks the code of the others.
    """

    def __init__(
        self, settings: Settings, targets: tuple[Any, ...], supervisor: Supervisor, concurrency: int | None, pool: str
    ) -> None:
        super().__init__(settings)
        self._starting = threading.Lock()
        self._supervisor, self._concurrency, self._pool = supervisor, concurrency, pool
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._queues: dict[str, str] = {}  # target -> default queue of its worker
        self._limits: dict[str, Limits] = {}  # workflow -> limits with that queue
        if targets:
            self._start([target if isinstance(target, str) else target_of(target) for target in targets])

    def prepare(self, workflow: WorkflowDefinition, run_id: str) -> None:
        """Start a worker for the workflow's module, unless one is running."""
        target = target_of(workflow)
        with self._starting:
            if not any(covers(started, target) for started in self._workers):
                self._start([target])
            started = next(started for started in self._workers if covers(started, target))
            self._limits[workflow.workflow_name] = replace(self.engine.limits, queue=self._queues[started])

    def limits_of(self, workflow: str) -> Limits:
        """The limits with the queue of the worker that has the workflow's code."""
        return self._limits.get(workflow, self.engine.limits)

    def _start(self, targets: list[str]) -> None:
        command = worker_command(targets, pool=self._pool, concurrency=self._concurrency)
        command += ["--quiet", "--loglevel", "WARNING"]  # users want to see the program's own output
        others = len(set(self._queues.values()))
        queue = f"{self.settings.queue}-{others + 1}" if others else self.settings.queue
        settings = self.settings.model_copy(update={"default_queue": queue})
        process = self._supervisor.spawn(command, env=process_environment(settings))
        for target in targets:
            self._workers[target] = process
            self._queues[target] = queue

    def close(self) -> None:
        """Stop the workers, then the connections."""
        self._supervisor.stop(*set(self._workers.values()), within_seconds=self.settings.drain_seconds + 5)
        super().close()


def target_of(workflow: Registrable) -> str:
    """The TARGET with which another process loads a workflow's module.

    Raises:
        ConfigurationError: Another process cannot load it: it is defined inside a function or in a notebook.
    """
    cls = workflow if isinstance(workflow, type) or not isinstance(workflow, WorkflowDefinition) else type(workflow)
    qualname = getattr(cls, "__qualname__", repr(cls))
    module = sys.modules.get(getattr(cls, "__module__", ""))
    do = "Define"
    if isinstance(workflow, WorkflowDefinition) and agent_name(workflow) is not None:
        # The class is LlamaIndex's, the agent is the user's.
        qualname, module, do = workflow.workflow_name, module_with(workflow), "Make"
    file = getattr(module, "__file__", None)
    if module is None or "<locals>" in qualname or file is None:
        raise ConfigurationError(
            f"A worker process cannot load workflow {qualname}: it is defined inside a function or in a notebook. "
            f"{do} it at the top level of a module, or use umbel.local(in_process=True)."
        )
    name = module_path(module.__name__)
    return str(Path(file).resolve()) if "." not in name else name


def covers(started: str, target: str) -> bool:
    """Whether a worker started for one target serves another."""
    return started == target or started.partition(":")[0] == target

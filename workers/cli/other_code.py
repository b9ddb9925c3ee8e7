"""Whether the live workers of a deployment execute a workflow, and whether they have the same code as a command."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...orchestration.engine.worker_directory import SeenWorker, seen_workers
from ...orchestration.model.errors import ConfigurationError
from ...orchestration.store.verbs import Store
from ...tasks.client.runtime import Runtime
from ...tasks.client.workflow import Workflow
from ...tasks.workflow.source import Source, source_of

#: Seconds that `umbel dev` may take to load changed code, and seconds after which the wait is reported.
_RELOAD_SECONDS, _SAY_SECONDS = 20.0, 1.5
_POLL_SECONDS = 0.2


class OtherCode(ConfigurationError):
    """A worker would execute steps of this workflow with code other than the command's."""


async def missing_worker(store: Store, workflow: str, target: str = "…") -> str | None:
    """A sentence that says that no live worker serves a workflow, and how to start one; None if one does.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    if any(worker.serves(workflow) for worker in await seen_workers(store)):
        return None
    return (
        f"No live worker serves {workflow!r}; start one to execute the run: umbel worker {target} "
        f"(or umbel dev {target})."
    )


def await_same_code(runtime: Runtime, workflow: Workflow, say: Callable[[str], None]) -> None:
    """Wait until all live workers of a deployment on this machine have this process's code of a workflow.

    Args:
        runtime: The deployment's runtime.
        workflow: The workflow as it is loaded here.
        say: Prints a line.

    Raises:
        OtherCode: A worker has code from another file, or still has other code after some time.
        StoreUnavailable: Redis did not answer.
    """
    source = source_of(type(workflow))
    began = time.monotonic()
    has_said = False
    while (differing := _differing(runtime, workflow, source)) is not None:
        worker, theirs = differing
        if source is not None and (theirs.file != source.file or time.monotonic() - began > _RELOAD_SECONDS):
            raise OtherCode(
                f"{_difference(worker, workflow, theirs, source)} Restart it, or run with a state of its own: "
                "--state NAME."
            )
        if not has_said and time.monotonic() - began > _SAY_SECONDS:
            has_said = True
            say(f"Waiting until {worker.name} has loaded the changed code of {workflow.workflow_name}.")
        time.sleep(_POLL_SECONDS)


def warn_of_other_code(runtime: Runtime, workflow: Workflow, say: Callable[[str], None]) -> None:
    """Print a line if a live worker has other code. It may be on another machine, so another path alone is ignored."""
    source = source_of(type(workflow))
    differing = _differing(runtime, workflow, source)
    if differing is not None and source is not None and differing[1].digest != source.digest:
        say(_difference(differing[0], workflow, differing[1], source))


def _differing(runtime: Runtime, workflow: Workflow, source: Source | None) -> tuple[SeenWorker, Source] | None:
    name = workflow.workflow_name
    for worker in runtime.portal.call(seen_workers(runtime.store)) if source is not None else ():
        if worker.serves(name) and name in worker.sources:
            theirs = Source(*worker.sources[name])
            if theirs != source:
                return worker, theirs
    return None


def _difference(worker: SeenWorker, workflow: Workflow, theirs: Source, ours: Source) -> str:
    where = f"{theirs.file}, not {ours.file}" if theirs.file != ours.file else f"{ours.file} before it was changed"
    return f"{worker.name} (process {worker.pid}) executes other code of {workflow.workflow_name}: {where}."

"""What a worker does about workflows that are paused for the whole deployment: it begins none of their steps."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from ...orchestration.engine.pausing.workflows import covered_by, hold
from ...orchestration.model.errors import UmbelError
from ...tasks.client.runtime import Runtime
from ...tasks.messages.template import HEADER, message_fault

logger = logging.getLogger("umbel.worker")

_ACTION = {"action": "workflows_paused"}


class PausedWorkflows:
    """The paused workflows, as this worker saw them last. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        """Args:
        runtime: The runtime of the deployment.
        """
        self._runtime = runtime
        self._names: frozenset[str] = frozenset()

    def follow(self, paused: Collection[str]) -> None:
        """Set the workflows that are paused now."""
        before, self._names = self._names, frozenset(paused)
        for names, text in ((self._names - before, "no more"), (before - self._names, "again")):
            if names:
                logger.info(f"this worker begins steps of %s {text}", ", ".join(sorted(names)), extra=_ACTION)

    def covering(self, workflow: object) -> str | None:
        """The name under which a workflow is paused, if it is."""
        return covered_by(workflow, self._names) if self._names and isinstance(workflow, str) else None

    def holds(self, message: Any) -> bool:
        """Hold the work that a message dispatches if its workflow is paused; False if the work is to be executed.

        *Promise:* if holding it fails, nothing is lost: unclaimed work is redispatched.
        """
        name = self.covering((message.headers or {}).get(HEADER))
        if name is None or message_fault(message.payload) is not None:
            return False
        run_id, work_id, _ = message.payload[0]
        self._runtime.portal.submit(self._hold(run_id, work_id, name))
        return True

    async def _hold(self, run_id: str, work_id: str, name: str) -> None:
        try:
            await hold(self._runtime.store, run_id, work_id, name)
        except UmbelError as error:
            logger.info("a step of run %s is not held: %s", run_id, error, extra=_ACTION | {"run_id": run_id})

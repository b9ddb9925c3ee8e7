"""A client that does everything clients do, to runs with fixed ids. After a kill anywhere, a restart continues."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.chaos.flow_events import Answer
from support.chaos.flows import Asks, Links, Talks
from support.chaos.special_flows import Few
from support.flows.everyday import FOLDER
from umbel import Context, Session, Settings, Workflow, WorkflowHandler
from umbel.errors import RunExists
from umbel.orchestration.state.redis_hash import LOCK_SECONDS
from umbel.tasks.client.runtime import Runtime

#: Run id -> expected result.
RUNS: dict[str, Any] = {
    "c-chain": 2,
    "c-asks": [0, 1],
    "c-state": [0],
    "c-revived": [0],
    "c-copied": [0, 1],
    "c-rewound": [0],
}


class Client:
    """One process of the client; each restart is a new one."""

    def __init__(self) -> None:
        self.runtime = Runtime(Settings.from_environment())

    def start(self, run_id: str, workflow: Workflow, **fields: Any) -> WorkflowHandler:
        """Start a run, unless an earlier process has started it."""
        with suppress(RunExists):
            workflow.start(run_id=run_id, **fields)
        return self.runtime.handler(run_id, workflow)

    def asks(self, run_id: str, n: int) -> WorkflowHandler:
        """Start a run that asks n questions."""
        return self.start(run_id, Asks(runtime=self.runtime, timeout=None), n=n)

    @staticmethod
    def answer(handler: WorkflowHandler, n: int) -> None:
        """Answer all questions, unless the run has ended."""
        for number in range(n):
            if handler.status() == "running":
                handler.send_event(Answer(n=number, text=f"answer {number}"))

    def live(self) -> None:
        """Do everything."""
        self.start("c-chain", Links(runtime=self.runtime, timeout=None), n=3, seconds=0.0)
        few = Few(runtime=self.runtime, timeout=None, **Few.OPTIONS).start(n=5)  # a new one in each process
        self.answer(self.asks("c-asks", 2), 2)
        state = self.asks("c-state", 1)
        asyncio.run(self._edit(state))
        self.answer(state, 1)
        self._revive(self.asks("c-revived", 1))
        original = self.asks("c-copied", 2)
        self._copy(original)
        self.answer(original, 2)
        self._fork(state)
        self._rewind(self.asks("c-rewound", 1))
        few.result(30)
        self._talk()
        assert self.runtime.portal.call(self.runtime.store.purge(few.run_id))

    def _talk(self) -> None:
        done = Path(os.environ[FOLDER], "talked")
        if done.exists():
            return
        session = Session("client", self.runtime)
        session.run(Talks(runtime=self.runtime, timeout=None), n=1).result(30)
        session.rewind(to=0)
        fork = session.fork(f"client {os.getpid()}", at=0)
        fork.close()
        fork.delete()
        done.touch()

    @staticmethod
    async def _edit(handler: WorkflowHandler) -> None:
        await handler.ctx.store.set("steps_done", 1)
        async with handler.ctx.store.edit_state() as state:
            state["steps_done"] += 1
        with suppress(LookupError):
            async with handler.ctx.store.edit_state():
                raise LookupError("this edit is given up")
        done = Path(os.environ[FOLDER], "edited")
        if not done.exists():
            async with handler.ctx.store.edit_state() as state:
                await asyncio.sleep(LOCK_SECONDS / 3)  # long enough that its lock must be renewed
                state["steps_done"] += 1
            done.touch()

    def _revive(self, handler: WorkflowHandler) -> None:
        done = Path(os.environ[FOLDER], "revived")
        if not done.exists():
            asyncio.run(handler.cancel_run())
            self.runtime.portal.call(self.runtime.engine.retry(handler.run_id))
            done.touch()
        self.answer(handler, 1)

    def _copy(self, original: WorkflowHandler) -> None:
        workflow = Asks(runtime=self.runtime, timeout=None)
        done = Path(os.environ[FOLDER], "copy")
        if not done.exists():
            # A new id in each process: an interrupted restoration keeps its id for an hour.
            done.write_text(workflow.start(ctx=Context.from_dict(workflow, original.ctx.to_dict())).run_id)
        self.answer(self.runtime.handler(done.read_text(), workflow), 2)

    def _fork(self, origin: WorkflowHandler) -> None:
        done = Path(os.environ[FOLDER], "fork")
        if not done.exists():
            done.write_text(origin.fork(1).run_id)  # a new id in each process, as in `_copy`
        self.answer(self.runtime.handler(done.read_text(), Asks(runtime=self.runtime, timeout=None)), 1)

    def _rewind(self, handler: WorkflowHandler) -> None:
        done = Path(os.environ[FOLDER], "rewound")
        self.answer(handler, 1)
        if not done.exists():
            handler.result(30)
            handler.rewind(1)
            done.touch()
        self.answer(handler, 1)


if __name__ == "__main__":
    Client().live()

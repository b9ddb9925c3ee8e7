# DBOS is an optional peer.
# mypy: disable-error-code="import-not-found,untyped-decorator"
"""DBOS in the measuring process: each step is recorded in SQLite before the next one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from dbos import DBOS

from .contender import Contender
from .shapes_umbel import CHAIN_STEPS, PAYLOAD


@DBOS.step()
def hop(data: str) -> str:
    """A link."""
    return data


@DBOS.workflow()
def chain(length: int, data: str) -> str:
    """Steps, one after the other."""
    for _ in range(length):
        data = hop(data)
    return data


class Dbos(Contender):
    """Chains only: the peer for comparing durability."""

    has_redis = False
    widest = 0

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-dbos-")
        url = f"sqlite:///{Path(self._folder.name, 'dbos.sqlite')}"
        DBOS(config={"name": "benchmark", "system_database_url": url, "log_level": "ERROR"})
        DBOS.launch()

    @property
    def about(self) -> str:
        return "in the measuring process, SQLite, its defaults"

    def warm_up(self) -> None:
        for _ in range(5):
            self.single()

    def chains(self, runs: int, gate: str | None = None) -> Iterator[None]:
        if runs == 1:  # a handle polls for the end; calling is faster
            yield
            chain(CHAIN_STEPS, PAYLOAD)
            return
        handles = [DBOS.start_workflow(chain, CHAIN_STEPS, PAYLOAD) for _ in range(runs)]
        yield
        for handle in handles:
            handle.get_result()

    def fans(self, runs: int, width: int) -> None:
        raise NotImplementedError(self.name)

    def single(self) -> None:
        chain(1, PAYLOAD)

    def close(self) -> None:
        DBOS.destroy()
        self._folder.cleanup()

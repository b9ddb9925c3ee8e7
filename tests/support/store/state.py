"""A started run on a real Redis, and the states that the `ctx.store` tests keep in it."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Field

from support.store.blocking import BlockingStore, blocking_store
from support.store.state_writer import beside
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.connection.portal import Portal
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.leases import Held, Leases
from umbel.orchestration.model.decide import Limits, decide_start
from umbel.orchestration.model.envelope import START, Envelope
from umbel.orchestration.model.plan import Plan, StepPlan
from umbel.orchestration.model.suspicion import ONE_SUSPECT
from umbel.orchestration.model.work_item import Work
from umbel.orchestration.store.nodes import connection_to
from umbel.orchestration.store.replies import Applied
from umbel.orchestration.store.verbs import Store
from umbel.tasks.state.access import StateAccess
from umbel.tasks.state.memory import InMemoryStateStore
from umbel.tasks.state.store import DictState, StateStore, SyncStateStore

PLAN = Plan(
    workflow="W",
    start_event=START,
    steps=tuple(StepPlan(name=name, task=f"W.{name}", accepts=(START,)) for name in ("a", "b")),
)


class Customer(BaseModel):
    name: str
    born: date | None = None


class Base(BaseModel):
    count: int = 0
    tags: list[str] = Field(default_factory=list)


class Derived(Base):
    customer: Customer | None = None
    notes: dict[str, Any] = Field(default_factory=dict)


class Unrelated(BaseModel):
    other: int = 0


class Needy(BaseModel):
    must: int


def connected_store(redis_url: str) -> BlockingStore:
    """Return a store with its own key prefix."""
    return blocking_store(Settings(redis_url=redis_url, key_prefix=f"t{secrets.token_hex(6)}", shards=2))


@dataclass
class Run:
    """A started run with two work items that can be claimed.

    Attributes:
        as_in_step: Whether states run on the current event loop, as in an async step of the asyncio pool, instead
            of on a portal with its own thread.
    """

    store: BlockingStore
    run_id: str
    dispatches: dict[str, Any]
    as_in_step: bool = False
    _here: WeakKeyDictionary[asyncio.AbstractEventLoop, Store] = field(default_factory=WeakKeyDictionary)

    @staticmethod
    def start(store: BlockingStore, run_id: str | None = None) -> Run:
        """Start a run of two steps."""
        run_id = run_id or new_id()
        commands = decide_start(PLAN, run_id, Envelope(START, (), b"{}"), Limits())
        started = store.start(run_id, PLAN, commands, nonce="n", timeout_seconds=None)
        assert isinstance(started, Applied)
        return Run(store, run_id, {dispatch.step: dispatch for dispatch in started.dispatches})

    def claim(self, step: str, owner: str = "o") -> Work:
        dispatch = self.dispatches[step]
        work = self.store.claim(
            self.run_id, dispatch.work_id, dispatch.dispatch_no, claim_id=new_id(), owner=owner, room=ONE_SUSPECT
        )
        assert isinstance(work, Work)
        return work

    def lose(self, work: Work) -> None:
        """Declare the process that holds `work` lost, and dispatch the work again."""
        held = Held(self.run_id, work.work_id, work.claim_id)
        for _, applied in self.store.over(Leases).hand_back(work.owner, [held], charge=True):
            self.dispatches |= {dispatch.step: dispatch for dispatch in applied.dispatches}

    def state(self, cls: type[Any] = DictState, work: Work | None = None, **options: Any) -> StateStore[Any]:
        aside = beside(self.store)
        store = self.on_this_loop() if self.as_in_step else aside
        return StateStore(StateAccess(store, self.run_id, self.run_id, cls, work, renewing=aside, **options))

    def on_this_loop(self) -> Store:
        """Return the store on the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._here:
            assert self.store.settings.redis_url is not None
            connection = connection_to(self.store.settings.redis_url, Portal("umbel-test", loop))
            self._here[loop] = Store(connection, self.store.settings)
        return self._here[loop]

    def plain_state(self, cls: type[Any] = DictState, work: Work | None = None) -> SyncStateStore[Any]:
        return SyncStateStore(StateAccess(beside(self.store), self.run_id, self.run_id, cls, work))

    def state_key(self) -> str:
        return self.store.locate(self.run_id)[f"state:{self.run_id}"]

    def raw(self) -> dict[str, bytes]:
        return {name.decode(): value for name, value in self.store.client.hgetall(self.state_key()).items()}

    def lock_key(self) -> str:
        return self.store.locate(self.run_id)[f"state:{self.run_id}:lock"]

    def journal(self) -> list[Any]:
        return [data for _, kind, data in self.store.journal(self.run_id) if kind == "state"]


class Memory:
    """An in-memory state, for tests of behavior that it shares with a state in Redis."""

    def __init__(self) -> None:
        self._store: InMemoryStateStore[Any] | None = None

    def state(self, cls: type[Any] = DictState) -> InMemoryStateStore[Any]:
        """Return the store: created by the first call, then always the same."""
        if self._store is None:
            self._store = InMemoryStateStore.of_class(cls)
        return self._store

"""The asynchronous core for synchronous tests: each call blocks until its coroutine has ended."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from redis import RedisCluster

from umbel.orchestration.connection.cluster import Cluster
from umbel.orchestration.connection.portal import Portal
from umbel.orchestration.connection.redis_client import Client, connect
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.dispatcher import Dispatcher
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.engine.staging import stage, unstage
from umbel.orchestration.engine.sweep import Sweep
from umbel.orchestration.inspection.run_list import newest_runs
from umbel.orchestration.model.decide import Decision
from umbel.orchestration.model.plan import Plan
from umbel.orchestration.model.work_item import Work
from umbel.orchestration.store.nodes import connection_to
from umbel.orchestration.store.pipeline import Connection
from umbel.orchestration.store.replies import Dispatch, Refusal, RunRecord
from umbel.orchestration.store.verbs import Store
from umbel.tasks.client.runtime import Runtime


class Blocking:
    """An object whose coroutine methods block; everything else is unchanged.

    Attributes:
        wrapped: The wrapped object.
    """

    def __init__(self, wrapped: Any, portal: Portal) -> None:
        self.wrapped, self.portal = wrapped, portal

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.wrapped, name)
        return partial(self.call, found) if inspect.iscoroutinefunction(found) else found

    def call(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call a coroutine function and block until it has ended; blocking wrappers in the arguments are unwrapped."""
        return self.portal.call(function(*map(unwrapped, args), **named))

    def over(self, make: Callable[..., Any], *more: Any) -> Any:
        """Return `make(self, …)` on the same portal, blocking too: an engine over a store, leases over an engine."""
        return Blocking(make(self.wrapped, *map(unwrapped, more)), self.portal)


class BlockingStore(Blocking):
    """A store, with an operator's connection beside it.

    Attributes:
        client: redis-py, to read keys and to change them without the store's knowledge.
    """

    def __init__(self, store: Store, client: Client) -> None:
        super().__init__(store, store.connection.portal)
        self.client = client

    def runs(self, **options: Any) -> list[RunRecord]:
        """See `newest_runs`."""
        found: list[RunRecord] = self.call(newest_runs, self, **options)
        return found

    def stage(self, work: Work, decision: Decision, chunk: int) -> Refusal | None:
        """See `staging.stage`."""
        refused: Refusal | None = self.call(stage, self, work, decision, chunk)
        return refused

    def unstage(self, work: Work, chunk: int) -> None:
        """See `staging.unstage`."""
        self.call(unstage, self, work, chunk)


def unwrapped(value: Any) -> Any:
    """Return the object behind a blocking wrapper."""
    return value.wrapped if isinstance(value, Blocking) else value


@cache
def shared_portal() -> Portal:
    """Return the portal of all synchronous tests in this process."""
    return Portal("umbel-tests")


def blocking_store(
    settings: Settings,
    client: Client | None = None,
    kind: Callable[[Connection, Settings], Store] = Store,
    **connection: Any,
) -> BlockingStore:
    """Return a store with its own connection, on the shared portal.

    Args:
        settings: Settings of the deployment.
        client: An operator's connection; by default a new one.
        kind: Makes the store.
        **connection: Options of `Connection`.
    """
    assert settings.redis_url is not None
    made = kind(connection_to(settings.redis_url, shared_portal(), **connection), settings)
    return BlockingStore(made, operator_at(settings.redis_url) if client is None else client)


def store_of(runtime: Runtime) -> BlockingStore:
    """Return the store of a runtime, blocking, with an operator's own connection."""
    assert runtime.settings.redis_url is not None
    return BlockingStore(runtime.store, operator_at(runtime.settings.redis_url))


def operator_at(url: str) -> Client:
    """Return an operator's connection to a server or a cluster."""
    if (cluster := Cluster.of(url)) is not None:
        return RedisCluster.from_url(cluster.url_of(cluster.nodes[0]), protocol=2)
    return connect(url)


class SentDispatches:
    """A dispatcher that records its dispatches.

    Attributes:
        sent: All dispatches, in order.
    """

    def __init__(self) -> None:
        self.sent: list[Dispatch] = []

    async def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """See `Dispatcher.dispatch`."""
        self.dispatch_soon(plan, dispatches)

    def dispatch_soon(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """See `Dispatcher.dispatch_soon`."""
        self.sent.extend(dispatches)


def blocking_sweep(store: Blocking, dispatcher: Dispatcher, backlog: Callable[[str], int | None]) -> Any:
    """Return a `Sweep` over a store; `backlog` gives the length of a broker queue."""

    async def length(queue: str) -> int | None:
        return backlog(queue)

    return Blocking(Sweep(Engine(store.wrapped, dispatcher), length), store.portal)

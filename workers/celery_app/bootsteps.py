"""What umbel adds to a Celery worker: the sweep in the main process, and parking of unknown steps.

Boot steps are Celery's way to extend a worker, see "Extensions and Bootsteps" in its user guide.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from celery import bootsteps
from celery.exceptions import InvalidTaskError
from redis.exceptions import RedisError, ResponseError

from ...orchestration.connection.portal import Portal
from ...orchestration.connection.redis_client import is_passing
from ...orchestration.engine.due import look
from ...orchestration.engine.pausing.workflows import pauses, release
from ...orchestration.engine.protocol import Engine
from ...orchestration.engine.sweep import Sweep
from ...orchestration.engine.worker_directory import forget_silent
from ...orchestration.history.packer import Packer
from ...orchestration.model.errors import StoreUnavailable, UmbelError
from ...orchestration.store.nodes import connection_to
from ...orchestration.store.scripts import library
from ...orchestration.store.verbs import Store
from ...tasks.client.runtime import Runtime
from ...tasks.messages.dispatcher import HEADER, CeleryDispatcher
from ...tasks.messages.template import message_fault
from ...tasks.owner.names import process_is_dead
from ...tasks.workflow.outside_events import events_from_outside
from ...tasks.workflow.source import source_of
from ..doctor.redis_info import ask_servers
from ..doctor.redis_rules import what_loses_data
from ..pool.taskpool import AsyncPool
from ..transport.channel import Channel
from ..transport.faults import task_fault
from ..transport.received import ReceivedMessage
from ..transport.unacked import says_nothing_about

logger = logging.getLogger("umbel.worker")

#: How often a worker removes others that have been silent for long from the directory.
_FORGET_SECONDS = 60.0


async def count_refused(store: Store) -> None:
    """Count a malformed message, for monitors."""
    key = store.keys.in_shard(0, "counters")
    await store.command("count a refused message", "HINCRBY", key, "refused_messages", 1)


def refuse(runtime: Runtime, message: Any, fault: str, cause: Exception | None = None) -> None:
    """Log and count a malformed message of umbel's; quarantine it if it came through umbel's transport."""
    about = {"action": "message_refused"}
    task = (message.headers or {}).get("task")
    logger.error("A message for task %.200r was refused: %s.", task, fault, exc_info=cause, extra=about)
    if isinstance(message.channel, Channel) and isinstance(message._raw, ReceivedMessage):
        message.channel.set_aside(message._raw, fault)
    try:
        runtime.portal.call(count_refused(runtime.store))
    except UmbelError as error:
        logger.info("a refused message was not counted: %s", error, extra=about)


class SweepStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """The sweep of a worker's main process, on a portal of its own.

    It also announces the worker, redispatches parked work, and fences processes of this host that have died.
    """

    #: After the pool has forked its children: forking a process that has threads is unsafe.
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.installation = parent.app.umbel
        self.installation.worker_name = parent.hostname
        self.installation.sweep_step = self
        self.pid = os.getpid()
        self._portal = Portal("umbel-sweep")
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._running: Future[None] | None = None

    def start(self, parent: Any) -> None:
        """Start sweeping.

        Raises:
            ConfigurationError: Redis is too old, holds a deployment with other settings, or denies its user a
                permission that umbel needs. The worker then ends. If Redis does not answer, the worker starts and
                retries.
        """
        settings = self.installation.settings
        self._store = Store(
            connection_to(settings.redis_url, self._portal, patience_seconds=settings.sweep_seconds), settings
        )
        with contextlib.suppress(StoreUnavailable):
            self._portal.call(look(self._store, {}))
            probe = self._store.keys.in_shard(0, "probe")
            self._portal.call(self._store.command("see whether it may publish", "PUBLISH", probe, ""))
        self._queues = sorted(parent.app.amqp.queues.consume_from)
        self._warn_of_unused_queues()
        with contextlib.suppress(StoreUnavailable):
            paused = self._portal.call(pauses(self._store))
            self.installation.paused_queues.before_start(paused.queues)
            self.installation.paused_workflows.follow(paused.workflows)
        is_ours = isinstance(parent.pool, AsyncPool)
        sources = {each.name: source_of(type(each.workflow)) for each in self.installation.registry}
        self._sources = {name: (each.file, each.digest) for name, each in sources.items() if each is not None}
        self._events = events_from_outside(each.workflow for each in self.installation.registry)
        self._pool = "asyncio" if is_ours else type(parent.pool).__module__.rpartition(".")[2]
        self._running = self._portal.submit(self._run())

    def stop(self, parent: Any) -> None:
        """Stop sweeping and remove the worker from the directory."""
        if self._running is None:
            return
        self._is_stopping = True
        self.look_for_dead()
        with contextlib.suppress(TimeoutError, CancelledError):
            self._running.result(5)
        self._portal.close()

    def _warn_of_unused_queues(self) -> None:
        steps = [step for registered in self.installation.registry for step in registered.plan.steps]
        used = {step.queue or self.installation.settings.queue for step in steps}
        if used and not used & set(self._queues):
            logger.warning(
                "none of this worker's steps use the queues that it takes messages from (%s), so it will execute "
                "nothing: they use %s. Correct --queues, or the queue of the steps.",
                ", ".join(self._queues),
                ", ".join(sorted(used)),
                extra={"action": "queues_unused"},
            )

    def look_for_dead(self) -> None:
        """Wake the sweep at once, as when a process of this worker has died and its work must be rescheduled."""
        self._portal.loop.call_soon_threadsafe(self._wake.set)

    async def _run(self) -> None:
        settings, store = self.installation.settings, self._store
        dispatcher = CeleryDispatcher(self.installation.app, self._portal)
        sweep = Sweep(Engine(store, dispatcher), dispatcher.backlog)
        packer = Packer(store)
        sweep.is_behind = True  # start() took this worker's turn to sweep, but settled nothing
        is_examined = False
        take_up_at = forget_at = 0.0
        while not self._is_stopping:
            try:
                if not is_examined:
                    is_examined = await asyncio.to_thread(self._examine)
                found = await sweep.look()
                if found is not None:
                    await self._fence(sweep, found.owners)
                    resumed: Mapping[str, int] = {}
                    try:
                        paused = await pauses(store)
                        self.installation.paused_queues.follow(paused.queues)
                        self.installation.paused_workflows.follow(paused.workflows)
                        resumed = paused.resumed
                        await self._announce(store, found.now)
                        if time.monotonic() >= forget_at:
                            await forget_silent(store)
                            forget_at = time.monotonic() + _FORGET_SECONDS
                    except StoreUnavailable as error:  # of shard 0; runs on the shards that answer continue
                        about = {"action": "sweep_postponed"}
                        logger.warning("the worker could not announce itself: %s", error, extra=about)
                    if found.parked and time.monotonic() >= take_up_at:
                        await self._take_up_parked(sweep, dispatcher)
                        take_up_at = time.monotonic() + settings.redispatch_seconds
                    await sweep.settle(found)
                    sweep.is_behind |= await release(sweep.engine, resumed, found.now)
                    if sweep.is_behind:
                        continue
                    await packer.turn(found.now)
            except (UmbelError, RedisError) as error:
                logger.warning("Redis unreachable, retrying: %s", error, extra={"action": "sweep_postponed"})
            except Exception:
                logger.exception("the sweep failed; trying again", extra={"action": "sweep_error"})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.sweep_seconds):
                    await self._wake.wait()
            self._wake.clear()
        await self._leave(store)

    def _examine(self) -> bool:
        """Log which Redis settings may lose acknowledged writes. Returns False if this must be tried again.

        A server that denies its user these commands is not examined; one that loads its data is examined later.
        """
        try:
            servers = ask_servers(self.installation.settings.redis_url)
        except ResponseError as error:
            about = {"action": "redis_not_examined"}
            logger.info("Redis does not let its settings be checked for data loss: %s", error, extra=about)
            return not is_passing(error)
        if any(server.is_loading for server in servers.values()):
            return False
        found = [each.at(name) for name, server in servers.items() for each in what_loses_data(server)]
        for finding in found:
            if finding.level in ("warning", "danger"):
                level = logging.ERROR if finding.level == "danger" else logging.WARNING
                logger.log(level, "%s %s", finding.text, finding.fix, extra={"action": "redis_unfit"})
        return True

    async def _fence(self, sweep: Sweep, owners: Mapping[int, Sequence[str]]) -> None:
        """Fence owners whose process ran on this host and is certainly dead, whichever worker it belonged to.

        Because every pass does this, work of a killed worker on this host need not wait until its lease expires, nor
        until a pool notices that its child is dead.
        """
        dead = {owner for names in owners.values() for owner in names if process_is_dead(owner)}
        for shard, names in owners.items():
            for owner in dead.intersection(names):
                await sweep.lose_owner(owner, shard=shard, known_dead=True)

    async def _take_up_parked(self, sweep: Sweep, dispatcher: CeleryDispatcher) -> None:
        """Redispatch parked work that this worker can execute.

        Not only at the start: during a rolling deploy, workers without the code take messages from the same queue and
        park the work again. For the same reason this worker delivers what it has room for to itself, not to the queue.
        """
        store = sweep.store
        for registered in self.installation.registry:
            found = await sweep.leases.unpark(registered.name, registered.steps, registered.has)
            for run_id, applied in found:
                if applied.dispatches:
                    plan = await store.plan_of(run_id)
                    left = self.installation.self_delivery.dispatch(plan, applied.dispatches, dispatcher)
                    await dispatcher.dispatch(plan, left)

    async def _announce(self, store: Store, now: int) -> None:
        about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pool": self._pool,
            "workflows": [registered.name for registered in self.installation.registry],
            "queues": (consumed := sorted(self.installation.app.amqp.queues.consume_from)),
            "paused": sorted(set(self._queues) - set(consumed)),
            "library": library().name,
            "sources": self._sources,
            "events": self._events,
            "detours": self.installation.direct_delivery.all_reasons(),
            "seen_at": now,
        }
        key = store.keys.in_shard(0, "workers")
        name = self.installation.worker_name
        await store.command("announce the worker", "HSET", key, name, json.dumps(about), name="announce")

    async def _leave(self, store: Store) -> None:
        key = store.keys.in_shard(0, "workers")
        try:
            await store.command("deregister", "HDEL", key, self.installation.worker_name, name="goodbye")
        except Exception as error:
            logger.info("could not deregister: %s", error, extra={"action": "goodbye_failed"})


class ParkingStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """Parks the work of umbel's messages whose task this worker lacks; Celery alone would reject such messages."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Replace Celery's handling of unknown tasks and of malformed messages where they are umbel's."""
        stock = type(consumer).on_unknown_task.__get__(consumer)
        stock_invalid = type(consumer).on_invalid_task.__get__(consumer)
        installation = consumer.app.umbel
        installation.continued.attach(consumer)
        installation.self_delivery.attach(consumer)
        installation.paused_queues.attach(consumer)
        installation.direct_delivery.attach(consumer)

        def create_task_handler() -> Callable[[Any], None]:
            return _guarded(type(consumer).create_task_handler(consumer), consumer)

        def on_invalid_task(body: Any, message: Any, exc: Exception) -> None:
            if HEADER in (message.headers or {}):
                refuse(installation.runtime, message, str(exc))
                message.reject_log_error(logger, consumer.connection_errors)
            else:
                stock_invalid(body, message, exc)

        def on_unknown_task(body: Any, message: Any, exc: Exception) -> None:
            workflow = (message.headers or {}).get(HEADER)
            if workflow is None:
                stock(body, message, exc)
                return
            if (fault := message_fault(message.payload)) is not None:
                on_invalid_task(body, message, InvalidTaskError(fault))
                return
            step = message.headers["task"].rpartition(".")[2]
            if (task := installation.registry.task_of(workflow, step)) in consumer.strategies:
                # The sender has other workflows loaded, and these decide whether a task has its short name.
                message.headers["task"] = task
                consumer.task_consumer.on_message(message)
                return
            try:
                run_id, work_id, _ = message.payload[0]
                runtime = installation.runtime
                is_parked = runtime.portal.call(runtime.engine.leases.park(run_id, work_id, workflow, step))
            except Exception as error:
                # Unacknowledged, the message would be redelivered forever. The work stays in the unclaimed index.
                about = {"action": "park_failed"}
                logger.warning("could not park %s: %s", message.headers.get("id"), error, extra=about)
            else:
                is_loaded = installation.registry.find(workflow) is not None
                logger.log(
                    logging.ERROR if is_parked else logging.DEBUG,  # not parked: the work no longer exists
                    "This worker cannot run step %r of workflow %r: %s. The work is parked until a worker that has the "
                    "code starts. Loaded here: %s.",
                    step,
                    workflow,
                    "the workflow has no such step here" if is_loaded else "the workflow is not loaded here",
                    ", ".join(each.name for each in installation.registry) or "nothing",
                    extra={"action": "needs_code", "run_id": run_id, "step": step},
                )
            message.ack_log_error(logger, consumer.connection_errors)

        consumer.create_task_handler = create_task_handler
        consumer.add_task_queue = partial(_change_queues, consumer, type(consumer).add_task_queue)
        consumer.cancel_task_queue = partial(_change_queues, consumer, type(consumer).cancel_task_queue)
        consumer.on_unknown_task = on_unknown_task
        consumer.on_invalid_task = on_invalid_task

    def stop(self, consumer: Any) -> None:
        """Nothing to undo: a consumer is not reused."""


def _guarded(handle: Callable[[Any], None], consumer: Any) -> Callable[[Any], None]:
    """Celery's handler of messages, which also refuses those that Celery or a pool cannot cope with."""

    def on_task_received(message: Any) -> None:
        if isinstance(message.channel, Channel):
            handle(message)  # that channel says what is wrong with a message, and quarantines it
            return
        fault, cause = task_fault(message.headers, "headers") if "task" in (message.headers or ()) else None, None
        if fault is None:
            try:
                handle(message)
                return
            except Exception as error:
                if says_nothing_about(error, (*consumer.connection_errors, *consumer.channel_errors)):
                    raise
                fault, cause = f"its delivery failed: {error!r:.200}", error
        refuse(consumer.app.umbel.runtime, message, fault, cause)
        if not message.acknowledged:
            message.reject_log_error(logger, consumer.connection_errors)

    return on_task_received


def _change_queues(consumer: Any, change: Callable[..., None], queue: Any, *args: Any, **options: Any) -> None:
    """Celery's methods that add and cancel a queue, which log their errors instead of ending the worker.

    The hub calls them for remote control, that is for whoever may publish. A queue that cannot be added is forgotten,
    because every reconnect would fail on it.
    """
    queues = consumer.app.amqp.queues
    is_new = isinstance(queue, str) and queue not in queues
    try:
        if not isinstance(queue, str) or not all(isinstance(each, str | None) for each in args):
            raise TypeError(f"expected texts as the names of a queue, its exchange and its key, found {[queue, *args]}")
        change(consumer, queue, *args, **options)
    except Exception as error:
        if says_nothing_about(error, consumer.connection_errors):
            raise
        if is_new:
            queues.deselect(queue)
            queues.pop(queue, None)
        about = {"action": "broadcast_dropped"}
        logger.error("Remote control could not change the queues of this worker: %.400r", error, extra=about)

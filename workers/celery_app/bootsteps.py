"""What umbel adds to a Celery worker: the sweep in the main process, and parking of unknown steps.

Boot steps are Celery's way to extend a worker, see "Extensions and Bootsteps" in its user guide.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from typing import Any

from celery import bootsteps
from celery.exceptions import InvalidTaskError
from redis.exceptions import RedisError

from ...orchestration.engine.leases import Leases
from ...orchestration.engine.sweep import Sweep
from ...orchestration.model.errors import UmbelError
from ...orchestration.store.blocking import BlockingStore as Store
from ...orchestration.store.connection import connect
from ...orchestration.store.failpoints import failpoint
from ...tasks.attempt.heartbeat import process_is_dead
from ...tasks.messages.dispatcher import HEADER, CeleryDispatcher
from ...tasks.messages.template import message_fault
from ..doctor.redis_info import ask_server
from ..doctor.redis_rules import what_loses_data
from ..pool.taskpool import AsyncPool
from ..transport.channel import Channel, ReceivedMessage

logger = logging.getLogger("umbel.worker")


def refuse_message(store: Store, message: Any, fault: str) -> None:
    """Log and count a malformed dispatch; on umbel's Redis transport, keep it in the quarantine."""
    about = {"action": "message_refused"}
    logger.error("A dispatch of task %r was refused: %s.", message.headers.get("task"), fault, extra=about)
    if isinstance(message.channel, Channel) and isinstance(message._raw, ReceivedMessage):
        message.channel.set_aside(message._raw, fault)
    try:
        store.client.hincrby(store.keys.in_shard(0, "counters"), "refused_messages", 1)
    except RedisError as error:
        logger.info("a refused dispatch was not counted: %s", error, extra=about)


class SweepStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """A thread in the worker's main process: sweeps, announces the worker, unparks work, fences dead processes."""

    #: After the pool has forked its children: forking a process that has threads is unsafe.
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.installation = parent.app.umbel
        self.installation.worker_name = parent.hostname
        self.installation.sweep_step = self
        self.pid = os.getpid()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, parent: Any) -> None:
        """Start sweeping."""
        self._queues = sorted(parent.app.amqp.queues.consume_from)
        is_ours = isinstance(parent.pool, AsyncPool)
        self._pool = "asyncio" if is_ours else type(parent.pool).__module__.rpartition(".")[2]
        self._thread = threading.Thread(target=self._run, name="umbel-sweep", daemon=True)
        self._thread.start()

    def stop(self, parent: Any) -> None:
        """Stop sweeping and deregister."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5)

    def look_for_dead(self) -> None:
        """A process of this worker has died: find it and hand back what it held, without waiting for the next sweep."""
        self._wake.set()

    def _run(self) -> None:
        settings = self.installation.settings
        dispatcher = CeleryDispatcher(self.installation.app)
        store = Store(connect(settings.redis_url), settings, patience_seconds=settings.sweep_seconds)
        sweep = Sweep(store, dispatcher, dispatcher.backlog)
        is_examined = False
        unpark_at = 0.0
        while not self._stop.is_set():
            try:
                if not is_examined:
                    self._examine(store)
                    is_examined = True
                self._fence(sweep)
                if time.monotonic() >= unpark_at:
                    self._unpark(sweep, dispatcher)
                    unpark_at = time.monotonic() + settings.redispatch_seconds
                self._announce(store)
                sweep.sweep()
            except (UmbelError, RedisError) as error:
                logger.warning("Redis unreachable, retrying the sweep: %s", error, extra={"action": "sweep_postponed"})
            except Exception:
                logger.exception("the sweep failed; retrying", extra={"action": "sweep_error"})
            self._wake.wait(settings.sweep_seconds)
            self._wake.clear()
        self._deregister(store)

    def _examine(self, store: Store) -> None:
        """Log once, at the start, which settings of Redis may lose what it acknowledges."""
        for finding in what_loses_data(ask_server(store.client)):
            if finding.level in ("warning", "danger"):
                level = logging.ERROR if finding.level == "danger" else logging.WARNING
                logger.log(level, "%s %s", finding.text, finding.fix, extra={"action": "redis_unfit"})

    def _fence(self, sweep: Sweep) -> None:
        """Fence owners whose process was on this host and is dead, even if it belonged to another worker.

        Done in each pass, so that work need not wait for the lease of a worker that was killed beside a living one, nor
        for a pool that has not noticed yet that a child is dead.
        """
        store = sweep.store

        def owners_by_shard() -> Any:
            pipe = store.client.pipeline(transaction=False)
            for shard in range(store.settings.shards):
                pipe.zrange(store.keys.in_shard(shard, "leases"), 0, -1)
            return pipe.execute()

        found = store.read("look for the dead", owners_by_shard)
        dead = {owner for owner in {raw for owners in found for raw in owners} if process_is_dead(owner.decode())}
        for shard, owners in enumerate(found):
            for raw in owners:
                if raw in dead:
                    sweep.lose_owner(raw.decode(), shard=shard, known_dead=True)

    def _unpark(self, sweep: Sweep, dispatcher: CeleryDispatcher) -> None:
        """Redispatch parked work that can be executed here.

        Not only at the start: as long as workers without the code take messages from the same queue, as in a rolling
        deploy, they park again. So this worker delivers to itself, past the queue, what it has room for.
        """
        store = sweep.store
        pipe = store.client.pipeline(transaction=False)
        for shard in range(store.settings.shards):
            pipe.exists(store.keys.in_shard(shard, "parked"))
        if not any(pipe.execute()):
            return
        for registered in self.installation.registry:
            for run_id, applied in sweep.leases.unpark(registered.name, registered.steps, registered.events.knows):
                if applied.dispatches:
                    plan = store.plan_of(run_id)
                    left = self.installation.self_delivery.dispatch(plan, applied.dispatches, dispatcher)
                    dispatcher.dispatch(plan, left)

    def _announce(self, store: Store) -> None:
        seconds, micros = store.client.time()
        about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pool": self._pool,
            "workflows": [registered.name for registered in self.installation.registry],
            "queues": self._queues,
            "seen_at": seconds * 1000 + micros // 1000,
        }
        failpoint("announce", "before")
        store.client.hset(store.keys.in_shard(0, "workers"), self.installation.worker_name, json.dumps(about))
        failpoint("announce", "after")

    def _deregister(self, store: Store) -> None:
        try:
            failpoint("goodbye", "before")
            store.client.hdel(store.keys.in_shard(0, "workers"), self.installation.worker_name)
            failpoint("goodbye", "after")
        except Exception as error:
            logger.info("could not deregister: %s", error, extra={"action": "goodbye_failed"})


class ParkingStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """Parks umbel's messages whose task this worker lacks; Celery would reject them before umbel's code runs."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Replace Celery's handling of unknown tasks and of malformed messages where they are umbel's."""
        stock = type(consumer).on_unknown_task.__get__(consumer)
        stock_invalid = type(consumer).on_invalid_task.__get__(consumer)
        installation = consumer.app.umbel
        installation.continued.attach(consumer)
        installation.self_delivery.attach(consumer)

        def on_invalid_task(body: Any, message: Any, exc: Exception) -> None:
            if HEADER in (message.headers or {}):
                refuse_message(installation.runtime.store, message, str(exc))
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
            try:
                run_id, work_id, _ = message.payload[0]
                step = message.headers["task"].rpartition(".")[2]
                store = installation.runtime.store
                is_parked = Leases(store).park(run_id, work_id, workflow, step)
            except Exception as error:
                # Left unacknowledged it would be delivered again and again; the unclaimed index has the work.
                about = {"action": "park_failed"}
                logger.warning("could not park %s: %s", message.headers.get("id"), error, extra=about)
            else:
                is_loaded = installation.registry.find(workflow) is not None
                logger.log(
                    logging.ERROR if is_parked else logging.DEBUG,  # else its work no longer exists
                    "This worker cannot run step %r of workflow %r: %s. The work is parked until a worker that has the "
                    "code starts. Loaded here: %s.",
                    step,
                    workflow,
                    "the workflow has no such step here" if is_loaded else "the workflow is not loaded here",
                    ", ".join(each.name for each in installation.registry) or "nothing",
                    extra={"action": "needs_code", "run_id": run_id, "step": step},
                )
            message.ack_log_error(logger, consumer.connection_errors)

        consumer.on_unknown_task = on_unknown_task
        consumer.on_invalid_task = on_invalid_task

    def stop(self, consumer: Any) -> None:
        """Nothing to undo: a consumer is not reused."""

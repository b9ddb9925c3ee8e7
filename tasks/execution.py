"""One attempt of one step, from doorbell to commit: the heart of a worker.

    doorbell -> claim -> bind -> call -> decide -> commit -> ring the next doorbells

Everything before the claim and after the commit may be lost or repeated; see `orchestration/store.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

from ..orchestration.connection import connect
from ..orchestration.decide import CHUNK, Decision, Limits, decide
from ..orchestration.envelope import FAILED, STEP_FAILED, Envelope, ending
from ..orchestration.errors import StepTimeoutError, UmbelError, WorkerLost
from ..orchestration.keys import new_id
from ..orchestration.places import Places
from ..orchestration.plan import Plan
from ..orchestration.records import Applied, Refusal
from ..orchestration.settings import Settings
from ..orchestration.store import Store
from ..orchestration.sweep import Dispatcher
from ..orchestration.upkeep import Held, Upkeep
from ..orchestration.work import Failed, FannedOut, Outcome, Returned, Surroundings, Suspended, Work
from .codec import encode_event
from .emissions import Emissions, Flusher
from .loop import LoopThread
from .owner import Owner
from .registry import Registered, Registry
from .remote_exceptions import encode_exception
from .retry_policy import jitter_seed, next_delay
from .step_call import call_step, step_failed_event
from .step_face import StepFace
from .verbose import TellingEmissions, is_verbose, tell_enqueued, tell_outcome, tell_started

logger = logging.getLogger("umbel.execution")

#: How long a worker waits out a Redis outage before it gives up an attempt and leaves it to the lease.
PATIENCE_SECONDS = 120.0

#: How logs and monitors call what an attempt came to.
_WORDS: dict[type[Outcome], str] = {Returned: "returned", FannedOut: "fanned out", Suspended: "waits for an event"}


class AttemptFailed(Exception):
    """An attempt has failed, and that is recorded: only Celery is still to be told, whose monitors show it.

    Attributes:
        retry_delay_seconds: When the next attempt is due; None if the failure is final.
    """

    def __init__(self, text: str, retry_delay_seconds: float | None = None) -> None:
        super().__init__(text)
        self.retry_delay_seconds = retry_delay_seconds


class Running:
    """An attempt in progress, and how to stop it from another thread."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.reason: str | None = None
        self.error: BaseException | None = None
        self._cancel: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def on_cancel(self, cancel: Callable[[], None] | None) -> None:
        """What to call when the attempt is cancelled; called at once when it is already."""
        with self._lock:
            self._cancel = cancel
            fire = self.reason is not None and cancel is not None
        if fire and cancel is not None:
            cancel()

    def cancel(self, reason: str) -> None:
        """Tell the attempt to stop. An `async def` step is cancelled; a plain one runs on, but cannot commit."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason, cancel = reason, self._cancel
        if cancel is not None:
            cancel()


class Executor:
    """Executes steps in one process: its connections, its leases, its event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        dispatcher: Dispatcher,
        *,
        worker: str,
        loop_of: Callable[[str], asyncio.AbstractEventLoop | None] | None = None,
    ) -> None:
        """Args:
        settings: Of the deployment.
        registry: What can be executed here.
        dispatcher: Rings the next doorbells.
        worker: The worker's node name, for leases and the journal.
        loop_of: The event loop a run's async steps belong on, if not this process's own.
        """
        assert settings.redis_url is not None
        self.settings, self.registry, self.dispatcher = settings, registry, dispatcher
        self.limits = Limits(settings.queue, settings.inbox_max_events)
        client = connect(settings.redis_url)
        self.store = Store(client, settings, patience_seconds=PATIENCE_SECONDS)
        self.collecting = Store(connect(settings.redis_url, timeout_seconds=1.0), settings, patience_seconds=1.0)
        upkeep = Upkeep(Store(connect(settings.redis_url), settings, patience_seconds=settings.heartbeat_seconds))
        self.upkeep = Upkeep(self.store)
        self.places = Places(self.store, dispatcher.ring)
        self.owner = Owner(worker, upkeep, self._cancel_claim)
        self.flusher = Flusher(settings.flush_seconds)
        self._own_loop = LoopThread()
        self._loop_of = loop_of
        self._running: dict[Held, Running] = {}

    def close(self) -> None:
        """Stop the threads; leases are left to run out."""
        self.owner.close()
        self.flusher.close()
        self._own_loop.close()

    def run_ended(self, run_id: str) -> None:
        """A run has ended: its steps here are told at once."""
        for held, running in list(self._running.items()):
            if held.run_id == run_id:
                running.cancel("its run has ended")

    def _cancel_claim(self, held: Held, reason: str) -> None:
        running = self._running.get(held)
        if running is not None:
            running.cancel(reason)

    def _loop(self, run_id: str) -> asyncio.AbstractEventLoop:
        chosen = self._loop_of(run_id) if self._loop_of is not None else None
        return chosen if chosen is not None and chosen.is_running() else self._own_loop.loop

    # -- claim -----------------------------------------------------------------------------------------------------

    def execute(self, run_id: str, work_id: str, dispatch_no: int) -> str:
        """Follow one doorbell. Returns what became of it, for logs; never raises for a doorbell that came to nothing.

        Raises:
            AttemptFailed: The step has failed; everything that follows from it is done.
            StoreUnavailable: Redis stayed away; the work is still there and will be rung for again.
        """
        work = self._claim(run_id, work_id, dispatch_no, takes_suspects=False)
        if work is Refusal.SUSPECT:
            # One suspect at a time: if it kills this process, it alone is charged.
            with self.owner.suspects:
                work = self._claim(run_id, work_id, dispatch_no, takes_suspects=True)
                return self._carry_out(work)
        return self._carry_out(work)

    def _claim(self, run_id: str, work_id: str, dispatch_no: int, *, takes_suspects: bool) -> Work | Refusal:
        for _ in range(2):
            held = Held(run_id, work_id, new_id())
            self.owner.hold(held)
            owner = self.owner.name
            try:
                reply = self.store.claim(
                    run_id,
                    work_id,
                    dispatch_no,
                    claim_id=held.claim_id,
                    owner=owner,
                    takes_suspects=takes_suspects,
                )
            except BaseException:
                self.owner.drop(held)
                raise
            if isinstance(reply, Work):
                self.owner.confirm(held)
                return reply
            self.owner.drop(held)
            if reply is not Refusal.GONE:
                return reply
            self.owner.reincarnate(owner)
        return Refusal.GONE

    def _carry_out(self, work: Work | Refusal) -> str:
        if isinstance(work, Refusal):
            return work.value
        held = Held(work.run_id, work.work_id, work.claim_id)
        running = self._running[held] = Running(held)
        try:
            return self._attempt(work, running)
        finally:
            # What ended without a commit (cancelled, or Redis stayed away) is given back by the next heartbeat.
            self._running.pop(held, None)
            self.owner.drop(held)

    # -- attempt ---------------------------------------------------------------------------------------------------

    def _attempt(self, work: Work, running: Running) -> str:
        registered = self.registry.find(work.workflow)
        if registered is None or work.step not in registered.steps:
            self.upkeep.park(work.run_id, work.work_id, work.workflow, work.step, work)
            logger.error(
                "This worker cannot run step %r of workflow %r: %s. The work is parked until a worker that has the "
                "code starts. Loaded here: %s.",
                work.step,
                work.workflow,
                "the workflow has no such step here" if registered else "the workflow is not loaded here",
                ", ".join(each.name for each in self.registry) or "nothing",
                extra={"action": "needs_code", "run_id": work.run_id, "step": work.step},
            )
            return "needs_code"
        plan = self.store.plan(work.run_id, work.plan_digest)
        self.store.unstage(work, CHUNK)
        emissions = (TellingEmissions if is_verbose(work) else Emissions)(
            work,
            plan,
            self.store,
            self.limits,
            ring=lambda applied: self._ring(plan, applied),
            lost=lambda refusal: running.cancel(f"Redis says {refusal}"),
            notify=self.flusher.notify,
        )
        config = registered.steps[work.step]
        face = StepFace(
            work,
            emissions,
            self.store,
            self.collecting,
            registered.events,
            registered.state_class,
            config.accept_event_subclasses,
            config.is_async,
        )
        if isinstance(emissions, TellingEmissions):
            tell_started(work)
        outcome = self._call(work, registered, face, running)
        if outcome is None:
            return "cancelled"
        if isinstance(emissions, TellingEmissions):
            tell_outcome(work, outcome)
        refused = self._commit(work, plan, outcome, emissions, face)
        if refused is not None:
            return refused.value
        if isinstance(outcome, Failed):
            error, running.error = running.error, None
            failed = AttemptFailed(f"attempt {work.attempt}: {_told(outcome)['error']}", outcome.retry_delay_seconds)
            raise failed.with_traceback(error.__traceback__ if error is not None else None)
        return f"attempt {work.attempt} {_WORDS[type(outcome)]}"

    def _call(self, work: Work, registered: Registered, face: StepFace, running: Running) -> Outcome | None:
        """Execute user code; None when the attempt was cancelled from outside."""
        try:
            if work.charged_losses >= self.settings.max_losses:
                raise WorkerLost(
                    f"Step {work.step!r} of run {work.run_id!r} was executing when its process died, {work.losses} "
                    f"times in all. It is not tried again: find out what kills the process, then `umbel retry`."
                )
            if work.late:
                raise StepTimeoutError(_late(work, registered))
            context = contextvars.copy_context()
            return context.run(
                call_step, work, registered, face, self.store, lambda: self._loop(work.run_id), running.on_cancel
            )
        except (Exception, asyncio.CancelledError) as error:
            if running.reason is not None:
                logger.info(
                    "step %s of run %s was cancelled: %s",
                    work.step,
                    work.run_id,
                    running.reason,
                    extra={"action": "step_cancelled", "run_id": work.run_id, "step": work.step},
                )
                return None
            running.error = error
            return self._failed(work, registered, error)

    def _failed(self, work: Work, registered: Registered, error: BaseException) -> Failed:
        """A failed attempt as an outcome: ask the retry policy, prepare what the failure may become."""
        if not isinstance(error, Exception):
            error = RuntimeError(f"the step ended with {error!r}")
        config = registered.steps[work.step]
        failures = work.failures + 1
        elapsed = max(0.0, (work.claimed_at - work.first_attempt_at) / 1000)
        delay: float | None = None
        if config.retry_policy is not None and not isinstance(error, WorkerLost):
            try:
                seed = jitter_seed(work.run_id, work.step, failures)
                delay = next_delay(config.retry_policy, elapsed, failures, error, seed)
            except Exception as broken:
                broken.add_note(f"raised by the retry policy of step {work.step!r}, asked about {error!r}")
                error = broken
        encoded = encode_exception(error)
        log = logger.info if delay is not None else logger.warning
        log(
            "step %s of run %s failed on attempt %d: %r%s",
            work.step,
            work.run_id,
            work.attempt,
            error,
            "" if delay is None else f"; next attempt in {delay:g} s",
            exc_info=error if delay is None else None,
            extra={"action": "step_failed", "run_id": work.run_id, "step": work.step, "attempt": work.attempt},
        )
        return Failed(
            error=json.dumps(encoded).encode(),
            retry_delay_seconds=delay,
            failed_event=self._failed_event(work, registered, error, elapsed),
            ending=ending(FAILED, step_name=work.step, exception=encoded, attempts=failures, elapsed_seconds=elapsed),
        )

    def _failed_event(self, work: Work, registered: Registered, error: Exception, elapsed: float) -> Envelope:
        if not registered.plan.handlers:
            return Envelope(STEP_FAILED, (), b"{}")
        return encode_event(step_failed_event(work, registered, error, elapsed, self.store), self.settings)

    # -- commit ----------------------------------------------------------------------------------------------------

    def _commit(self, work: Work, plan: Plan, outcome: Outcome, emissions: Emissions, face: StepFace) -> Refusal | None:
        """Record the outcome with everything it did, and ring for what follows; or say why that was refused."""
        publishes, sends = emissions.close(is_final=isinstance(outcome, Returned | FannedOut))
        surroundings = Surroundings(work.version)
        if work.version:
            surroundings = self.store.surroundings(work.run_id)
        while True:
            routed, left = emissions.routed(sends, surroundings)
            decision = decide(plan, work, outcome, left, self.limits)
            commands = [*publishes, *(command for _, sent in routed for command in sent), *decision.commands]
            decision = Decision(
                commands, decision.staged, decision.scope_id, decision.sensitive or bool(sends), decision.opens
            )
            refused = self.store.stage(work, decision, CHUNK) if decision.staged else None
            reply: Applied | Refusal = refused or self.store.commit(
                work,
                plan,
                decision,
                version=surroundings.version,
                batches=emissions.batches,
                entry={"out": type(outcome).__name__.lower()} | _told(outcome),
                taken=face.taken,
            )
            if reply is not Refusal.CHANGED:
                break
            surroundings = self.store.surroundings(work.run_id)
        if isinstance(reply, Refusal):
            logger.info(
                "the outcome of step %s of run %s was not wanted any more: %s",
                work.step,
                work.run_id,
                reply,
                extra={"action": "commit_refused", "run_id": work.run_id, "step": work.step},
            )
            return reply
        if isinstance(emissions, TellingEmissions) and not reply.ended:
            tell_enqueued(commands, reply.doorbells)
        self._ring(plan, reply)
        self.places.pass_on(reply.leaving)
        if isinstance(outcome, Failed) and outcome.retry_delay_seconds:
            self._wake_in(outcome.retry_delay_seconds, work, plan)
        return None

    def _wake_in(self, seconds: float, work: Work, plan: Plan) -> None:
        """Be punctual about a short delay: the timer is in Redis and any sweep acts on it, but only every so often."""
        if seconds > 2 * self.settings.sweep_seconds:
            return

        def wake() -> None:
            timer = f"retry|{work.run_id}|{work.work_id}"
            try:
                woken = self.upkeep.wake(work.run_id, timer, "retry", work.work_id)
            except UmbelError as error:
                logger.info("a retry is left to the sweep: %s", error, extra={"action": "wake_failed"})
                return
            if woken is not None:
                self._ring(plan, woken)

        loop = self._own_loop.loop
        loop.call_soon_threadsafe(lambda: loop.call_later(seconds + 0.002, loop.run_in_executor, None, wake))

    def _ring(self, plan: Plan, applied: Applied) -> None:
        self.dispatcher.ring(plan, applied.doorbells)


def _told(outcome: Outcome) -> dict[str, Any]:
    """What the journal's entry says of an outcome beyond its kind."""
    match outcome:
        case Failed():
            told = json.loads(outcome.error)
            entry: dict[str, Any] = {"error": f"{told['exception_type']}: {told['exception_message']}"[:500]}
            if outcome.retry_delay_seconds is not None:
                entry["delay"] = outcome.retry_delay_seconds
            return entry
        case _:
            event = getattr(outcome, "event", None)
            return {"event": event.type} if event is not None else {}


def _late(work: Work, registered: Registered) -> str:
    seconds = registered.steps[work.step].timeout_seconds
    return f"Step {work.step!r} of run {work.run_id!r} did not end within its timeout of {seconds} s and did not react."

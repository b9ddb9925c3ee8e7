"""One attempt of one step, from dispatch to commit: the heart of a worker.

    dispatch -> claim -> bind -> call -> decide -> commit -> ring the next dispatches

Everything before the claim and after the commit may be lost or repeated; see `orchestration/store/verbs.py`. The flow
is written once, as generators of requests (`requests.py`). Here a thread carries it out; `loop_executor.py` has an
event loop do so, and goes on with what a commit made ready (*local continuation*) instead of ringing for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...orchestration.engine.concurrency import RunQuota
from ...orchestration.engine.leases import Held, Leases
from ...orchestration.engine.sweep import Dispatcher
from ...orchestration.model.decide import CHUNK, Decision, Limits, decide
from ...orchestration.model.errors import RunClosed, StepTimeoutError, StoreUnavailable, UmbelError, WorkerLost
from ...orchestration.model.plan import Plan
from ...orchestration.model.suspicion import MOST, NO_SUSPECTS, Room
from ...orchestration.model.work_item import Failed, FannedOut, Outcome, Returned, Surroundings, Suspended, Work
from ...orchestration.store.blocking import BlockingStore as Store
from ...orchestration.store.connection import connect
from ...orchestration.store.keys import new_nonce
from ...orchestration.store.pipeline import Connection
from ...orchestration.store.portal import Portal
from ...orchestration.store.replies import Applied, CarryOn, Dispatch, Refusal
from ...orchestration.store.settings import Settings, redact_url
from ...orchestration.store.verbs import Store as AsyncStore
from ..context.emissions import Emissions, Flusher
from ..context.step_context import StepContext
from ..workflow.registry import Registered, Registry
from .at_work import RunningAttempts
from .failure import failed_outcome
from .heartbeat import LeaseHolder
from .requests import Block, CallStep, Flow, Request, Ring, Send, TakePermit
from .running import Abandoned, AttemptFailed, DeliveryResult, Running
from .step_call import InputUnknown, call_step
from .step_loop import LoopThread
from .suspects import Permit, Suspects, give_up_permit
from .verbose import VerboseEmissions, is_verbose, log_enqueued, log_outcome, log_started

logger = logging.getLogger("umbel.execution")

#: How long a worker waits out a Redis outage before it gives up an attempt and leaves it to the lease.
PATIENCE_SECONDS = 120.0

#: How logs and monitors call what an attempt came to.
_WORDS: dict[type[Outcome], str] = {Returned: "returned", FannedOut: "fanned out", Suspended: "waits for an event"}


@dataclass(frozen=True, slots=True)
class _Ended:
    """What an attempt came to.

    Attributes:
        text: In words.
        failed: What Celery is told if it failed.
        following: Work that its commit made ready and gave to this process.
    """

    text: str
    failed: AttemptFailed | None = None
    following: Work | None = None


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
        one_at_a_time: bool = False,
    ) -> None:
        """Args:
        settings: Of the deployment.
        registry: What can be executed here.
        dispatcher: Rings the next dispatches.
        worker: The worker's node name, for leases and the journal.
        loop_of: The event loop a run's async steps belong on, if not this process's own.
        one_at_a_time: This process executes one step at a time: it is a child of a prefork pool.
        """
        assert settings.redis_url is not None
        self.settings, self.registry, self.dispatcher = settings, registry, dispatcher
        self.limits = Limits(settings.queue, settings.inbox_max_events)
        client = connect(settings.redis_url)
        self.store = Store(client, settings, patience_seconds=PATIENCE_SECONDS)
        self.collecting = Store(connect(settings.redis_url, timeout_seconds=1.0), settings, patience_seconds=1.0)
        #: On a loop that user code does not block.
        self.side = Portal("umbel-side")
        self.side_store = AsyncStore(
            Connection(settings.redis_url, self.side, patience_seconds=PATIENCE_SECONDS), settings
        )
        # A heartbeat over a connection that has gone silent must have its second try before the lease runs out.
        beating = connect(settings.redis_url, timeout_seconds=settings.lease_seconds / 3)
        leases = Leases(Store(beating, settings, patience_seconds=settings.heartbeat_seconds))
        self.leases = Leases(self.store)
        self.quota = RunQuota(self.store, dispatcher.dispatch)
        self._at_work = RunningAttempts()
        self.owner = LeaseHolder(worker, leases, self._at_work.cancel, self._dispatch_given_back)
        self.suspects = Suspects(one_at_a_time=one_at_a_time)
        self.flusher = Flusher(settings.flush_seconds)
        self._own_loop = LoopThread()
        self._loop_of = loop_of

    def close(self) -> None:
        """Stop the threads; leases are left to run out."""
        self.owner.close()
        self.flusher.close()
        self._own_loop.close()
        self.side.close()

    @property
    def _state_store(self) -> AsyncStore:
        """For the state of async steps."""
        return self.side_store

    def run_ended(self, run_id: str) -> None:
        """A run has ended: its steps here are told at once."""
        self._at_work.run_ended(run_id)

    def _loop(self, run_id: str) -> asyncio.AbstractEventLoop:
        chosen = self._loop_of(run_id) if self._loop_of is not None else None
        return chosen if chosen is not None and chosen.is_running() else self._own_loop.loop

    # -- driven by a thread ----------------------------------------------------------------------------------------

    def execute(self, run_id: str, work_id: str, dispatch_no: int) -> str:
        """Follow one dispatch. Returns what became of it, for logs; never raises for a dispatch that came to nothing.

        Raises:
            AttemptFailed: The step has failed; everything that follows from it is done.
            StoreUnavailable: Redis stayed away; the work is still there and will be rung for again.
        """
        flow = self.follow(run_id, work_id, dispatch_no)
        resume: Callable[[Any], Request] = flow.send
        value: Any = None
        try:
            while True:
                request = resume(value)
                try:
                    resume, value = flow.send, self._do(request)
                except BaseException as error:  # the flow puts things in order, then lets it pass
                    resume, value = flow.throw, error
        except StopIteration as end:
            told: str = end.value
            return told

    def _do(self, request: Request) -> Any:
        match request:
            case Send(ask):
                return self.store.do(ask)
            case Block(call):
                return call()
            case CallStep(work, registered, face, on_cancel):
                context = contextvars.copy_context()
                loop = partial(self._loop, work.run_id)
                return context.run(call_step, work, registered, face, self.store, loop, on_cancel)
            case Ring(plan, dispatches):
                return self.dispatcher.dispatch(plan, dispatches)
            case TakePermit(level):
                asked = self.suspects.ask(level)
                try:
                    return asked.result()
                except BaseException:
                    give_up_permit(asked)
                    raise

    # -- claim -----------------------------------------------------------------------------------------------------

    def follow(self, run_id: str, work_id: str, dispatch_no: int) -> Flow[str]:
        """The flow of one dispatch; see `execute`."""
        work = yield from self._claim(run_id, work_id, dispatch_no, NO_SUSPECTS)
        if work is not Refusal.SUSPECT:
            return (yield from self._carry_out(work))
        for level in range(1, MOST + 1):
            turn: Permit = yield TakePermit(level)
            try:
                work = yield from self._claim(run_id, work_id, dispatch_no, turn.room)
                if work is not Refusal.SUSPECT:
                    return (yield from self._carry_out(work, goes_on=False))  # who waits, waits for this one only
            finally:
                turn.end(went_well=isinstance(work, Work))
        return Refusal.SUSPECT

    def _claim(self, run_id: str, work_id: str, dispatch_no: int, room: Room) -> Flow[Work | Refusal]:
        for _ in range(2):
            held = Held(run_id, work_id, new_nonce())
            self.owner.hold(held)
            self._at_work.enter(held)
            owner = self.owner.name
            try:
                reply: Work | Refusal = yield Send(
                    self.store.claiming(
                        run_id,
                        work_id,
                        dispatch_no,
                        claim_id=held.claim_id,
                        owner=owner,
                        room=room,
                    )
                )
            except BaseException:
                self._let_go(held)
                raise
            if isinstance(reply, Work):
                self.owner.confirm(held)
                return reply
            self._let_go(held)
            if reply is not Refusal.FENCED:
                return reply
            self.owner.begin_new_incarnation(owner)
        return Refusal.FENCED

    def _carry_out(self, work: Work | Refusal, *, goes_on: bool = True) -> Flow[str]:
        if isinstance(work, Refusal):
            return work.value
        began = time.monotonic()
        until = began + (self.settings.continuation_seconds if goes_on else 0.0)
        first = yield from self._attempt(work, until)
        following, seconds = first.following, time.monotonic() - began
        while following is not None:
            following = yield from self._go_on(following, until)
        if first.failed is not None:
            raise first.failed
        return DeliveryResult.of(first.text, seconds if first.following is not None else None)

    def _go_on(self, work: Work, until: float) -> Flow[Work | None]:
        """Execute what a commit gave to this process; only the executor of an event loop is ever given anything."""
        raise NotImplementedError
        yield

    # -- attempt ---------------------------------------------------------------------------------------------------

    def _attempt(self, work: Work, until: float) -> Flow[_Ended]:
        held = Held(work.run_id, work.work_id, work.claim_id)
        running = self._at_work.enter(held)
        try:
            return (yield from self._execute(work, running, until))
        finally:
            # What ended without a commit (cancelled, or Redis stayed away) is given back by the next heartbeat.
            self._let_go(held)

    def _let_go(self, held: Held) -> None:
        self._at_work.leave(held)
        self.owner.drop(held)

    def _execute(self, work: Work, running: Running, until: float) -> Flow[_Ended]:
        registered = self.registry.find(work.workflow)
        if registered is None or work.step not in registered.steps:
            yield Block(partial(self._park, work, registered))
            return _Ended("needs_code")
        plan = self.store.known_plan(work.plan_digest)
        if plan is None:
            plan = yield Block(partial(self.store.plan, work.run_id, work.plan_digest))
        if work.segments:
            yield Block(partial(self.store.unstage, work, CHUNK))
        emissions = self._emissions(work, plan, running)
        config = registered.steps[work.step]
        face = StepContext(
            work,
            emissions,
            self._state_store,
            self.side_store,
            self.collecting,
            registered.events,
            registered.state_class,
            config.accept_event_subclasses,
            config.is_async,
        )
        if isinstance(emissions, VerboseEmissions):
            log_started(work)
        try:
            outcome = yield from self._call(work, registered, face, running)
        except InputUnknown as unknown:
            yield Block(partial(self._park, work, registered, unknown.event))
            return _Ended("needs_code")
        if outcome is None:
            return _Ended("cancelled")
        if isinstance(emissions, VerboseEmissions):
            log_outcome(work, outcome)
        reply = yield from self._commit(work, plan, outcome, emissions, face, until)
        if isinstance(reply, Refusal):
            return _Ended(reply.value)
        if (gained := reply.continued) is not None:
            self._at_work.enter(Held(gained.run_id, gained.work_id, gained.claim_id), after=running)
        if isinstance(outcome, Failed):
            error, running.error = running.error, None
            failed = AttemptFailed(f"attempt {work.attempt}: {_told(outcome)['error']}", outcome.retry_delay_seconds)
            failed.with_traceback(error.__traceback__ if error is not None else None)
            return _Ended("failed", failed, reply.continued)
        return _Ended(f"attempt {work.attempt} {_WORDS[type(outcome)]}", None, reply.continued)

    def _park(self, work: Work, registered: Registered | None, lacks: str | None = None) -> None:
        self.leases.park(work.run_id, work.work_id, work.workflow, work.step, work, lacks=lacks)
        why = "the workflow has no such step here" if registered else "the workflow is not loaded here"
        logger.error(
            "This worker cannot run step %r of workflow %r: %s. The work is parked until a worker that has the "
            "code starts. Loaded here: %s.",
            work.step,
            work.workflow,
            why if lacks is None else f"the class of its event {lacks!r} is not loaded here",
            ", ".join(each.name for each in self.registry) or "nothing",
            extra={"action": "needs_code", "run_id": work.run_id, "step": work.step},
        )

    def _emissions(self, work: Work, plan: Plan, running: Running) -> Emissions:
        return (VerboseEmissions if is_verbose(work) else Emissions)(
            work,
            plan,
            self.store,
            self.limits,
            ring=lambda applied: self.dispatcher.dispatch(plan, applied.dispatches),
            lost=lambda refusal: running.cancel(f"Redis says {refusal}"),
            notify=self.flusher.notify,
        )

    def _call(self, work: Work, registered: Registered, face: StepContext, running: Running) -> Flow[Outcome | None]:
        """Execute user code; None when the attempt was cancelled from outside."""
        if running.reason is not None:
            self._say_cancelled(work, running.reason)
            return None
        try:
            if work.charged_losses >= self.settings.max_losses:
                raise WorkerLost(
                    f"Step {work.step!r} of run {work.run_id!r} was executing when its process died, {work.losses} "
                    f"times in all. It is not tried again: find out what kills the process, then `umbel retry`."
                )
            if work.late:
                raise StepTimeoutError(_late(work, registered))
            outcome: Outcome = yield CallStep(work, registered, face, running.on_cancel)
            return outcome
        except Abandoned as abandoned:
            self._say_cancelled(work, str(abandoned))
            return None
        except (Exception, asyncio.CancelledError) as error:
            reason = running.reason or self._what_breaks_off(error)
            if reason is not None:
                self._say_cancelled(work, reason)
                return None
            running.error = error
            if registered.plan.handlers and work.members is not None:  # the handler is told what had been gathered
                failed: Outcome = yield Block(partial(failed_outcome, work, registered, error, self.store))
                return failed
            return failed_outcome(work, registered, error, self.store)

    def _what_breaks_off(self, error: BaseException) -> str | None:
        """Why a step that raised this has not failed: it is not wanted any more, or its own Redis is away.

        In both cases the work is somebody else's, or is given back once Redis is there.
        """
        is_away = isinstance(error, StoreUnavailable) and error.where == redact_url(self.settings.redis_url or "")
        return str(error) if is_away or isinstance(error, RunClosed) else None

    @staticmethod
    def _say_cancelled(work: Work, reason: str) -> None:
        about = {"action": "step_cancelled", "run_id": work.run_id, "step": work.step}
        logger.info("step %s of run %s was cancelled: %s", work.step, work.run_id, reason, extra=about)

    # -- commit ----------------------------------------------------------------------------------------------------

    def _commit(
        self, work: Work, plan: Plan, outcome: Outcome, emissions: Emissions, face: StepContext, until: float
    ) -> Flow[Applied | Refusal]:
        """Record the outcome with everything it did, and ring for what follows; or say why that was refused."""
        close = partial(emissions.close, is_final=isinstance(outcome, Returned | FannedOut))
        publishes, sends = close() if emissions.is_empty else (yield Block(close))
        carry_on = self._carry_on(plan, until)
        reply: Applied | Refusal | None = None
        surroundings = Surroundings(work.version)
        try:
            if work.version:
                surroundings = yield Block(partial(self.store.surroundings, work.run_id))
            while True:
                routed, left = emissions.routed(sends, surroundings)
                decision = decide(plan, work, outcome, left, self.limits)
                commands = [*publishes, *(command for _, sent in routed for command in sent), *decision.commands]
                decision = Decision(
                    commands, decision.staged, decision.scope_id, decision.sensitive or bool(sends), decision.opens
                )
                refused = (yield Block(partial(self.store.stage, work, decision, CHUNK))) if decision.staged else None
                reply = refused or (
                    yield Send(
                        self.store.committing(
                            work,
                            plan,
                            decision,
                            version=surroundings.version,
                            batches=emissions.batches,
                            exchanges=face.exchanges,
                            entry={"out": type(outcome).__name__.lower()} | _told(outcome),
                            taken=face.taken,
                            carry_on=carry_on,
                        )
                    )
                )
                if reply is not Refusal.CHANGED:
                    break
                surroundings = yield Block(partial(self.store.surroundings, work.run_id))
        finally:
            self._settle_offer(carry_on, reply)
        assert reply is not None
        if isinstance(reply, Refusal):
            logger.info(
                "the outcome of step %s of run %s was not wanted any more: %s",
                work.step,
                work.run_id,
                reply,
                extra={"action": "commit_refused", "run_id": work.run_id, "step": work.step},
            )
            return reply
        if isinstance(emissions, VerboseEmissions) and not reply.ended:
            log_enqueued(commands, reply)
        if reply.dispatches:
            yield Ring(plan, reply.dispatches)
        if reply.leaving is not None:
            yield Block(partial(self.quota.pass_on, reply.leaving))
        if isinstance(outcome, Failed) and outcome.retry_delay_seconds:
            self._wake_in(outcome.retry_delay_seconds, work, plan)
        return reply

    def _carry_on(self, plan: Plan, until: float) -> CarryOn | None:
        """What the commit may give to this process at once; a thread takes everything from its queue."""
        return None

    def _dispatch_given_back(self, run_id: str, dispatches: Sequence[Dispatch]) -> None:
        if not dispatches:
            return
        try:
            self.dispatcher.dispatch(self.store.plan_of(run_id), dispatches)
        except UmbelError as error:
            about = {"action": "dispatch_failed", "run_id": run_id}
            logger.warning(
                "%d dispatches were not sent (%s); the sweep rings again", len(dispatches), error, extra=about
            )

    def _settle_offer(self, carry_on: CarryOn | None, reply: Applied | Refusal | None) -> None:
        """The commit was answered, or never will be."""

    def _wake_in(self, seconds: float, work: Work, plan: Plan) -> None:
        """Be punctual about a short delay: the timer is in Redis and any sweep acts on it, but only every so often."""
        if seconds > 2 * self.settings.sweep_seconds:
            return

        def wake() -> None:
            timer = f"retry|{work.run_id}|{work.work_id}"
            try:
                woken = self.leases.wake(work.run_id, timer, "retry", work.work_id)
            except UmbelError as error:
                logger.info("a retry is left to the sweep: %s", error, extra={"action": "wake_failed"})
                return
            if woken is not None:
                self.dispatcher.dispatch(plan, woken.dispatches)

        loop = self._own_loop.loop
        loop.call_soon_threadsafe(lambda: loop.call_later(seconds + 0.002, loop.run_in_executor, None, wake))


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

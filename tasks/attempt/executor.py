"""One attempt of one step, from the Celery message to the commit: the heart of a worker.

    message -> claim -> bind -> call -> commit -> dispatch what became ready

Everything before the claim and after the commit may be lost or repeated; see `orchestration/engine/protocol.py`. After
a commit an asyncio worker may continue with work that it made ready, bypassing the broker (*local continuation*).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from ...orchestration.connection.keys import new_nonce
from ...orchestration.connection.portal import Portal
from ...orchestration.connection.settings import Settings, redact_url
from ...orchestration.engine.dispatcher import Dispatcher
from ...orchestration.engine.emitted import Emitted
from ...orchestration.engine.protocol import Engine
from ...orchestration.model.decide import routed_events
from ...orchestration.model.errors import RunClosed, StepTimeoutError, StoreUnavailable
from ...orchestration.model.plan import Plan
from ...orchestration.model.suspicion import MOST, NO_SUSPECTS, Room
from ...orchestration.model.work_item import Failed, FannedOut, Held, Outcome, Returned, Work
from ...orchestration.store.nodes import connection_to
from ...orchestration.store.replies import Applied, CarryOn, Refusal
from ...orchestration.store.verbs import Store
from ..context.emissions import Emissions, Flusher
from ..context.reuse import with_recorded
from ..context.step_context import StepContext
from ..context.step_fields import kept_step_logs
from ..owner.heartbeat import LeaseHolder
from ..owner.suspects import Suspects
from ..workflow.registry import Registered, Registry
from .calling import Calling, Isolated, Raised
from .continuation import Continuation
from .failure import (
    OUTCOME_WORDS,
    check_may_begin,
    clear_frames,
    failed_outcome,
    failure_text,
    journal_entry,
    log_cancelled,
    log_refused,
)
from .parking import park, park_misrouted
from .plain_calls import PlainCalls
from .running import (
    Abandoned,
    AttemptFailed,
    DeliveryResult,
    Ended,
    Running,
    RunningAttempts,
    forget_cancellations,
    is_ending,
    reached_time_limit,
)
from .step_call import CannotBind, call_step
from .unrecorded import settle_unrecorded, undisturbed
from .verbose import VerboseEmissions, is_verbose, log_enqueued, log_outcome, log_started

logger = logging.getLogger("umbel.execution")

#: How long a worker waits for Redis to return before it gives up an attempt; its lease then expires.
OUTAGE_PATIENCE_SECONDS = 120.0

_OUT_OF_TIME = "Celery's hard time limit was reached by {!r} of run {!r}."


class Executor:
    """Executes steps in one process: its connections, its leases, and the loop its attempts run on."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        dispatcher: Callable[[Portal], Dispatcher],
        *,
        worker: str,
        portal: Portal,
        loop_of: Callable[[str], asyncio.AbstractEventLoop | None] | None = None,
        one_at_a_time: bool = False,
        continuation: Continuation | None = None,
        plain: PlainCalls | None = None,
    ) -> None:
        """Args:
        settings: The deployment's settings.
        registry: What can be executed here.
        dispatcher: Makes the dispatcher of a portal.
        worker: The worker's node name, for leases and the journal.
        portal: Where attempts run.
        loop_of: The event loop that a run's async steps must run on, if not the portal's.
        one_at_a_time: This process executes one step at a time: it is a child of a prefork pool.
        continuation: Decides which work it continues with locally; None takes all work from the queue.
        plain: Calls plain steps when no thread waits for the attempt.
        """
        assert settings.redis_url is not None
        url, grouped = settings.redis_url, settings.grouped_scripts
        self.settings, self.registry, self.portal = settings, registry, portal
        #: For what must keep running while a step blocks the portal's loop: heartbeat, flusher, `ctx.collect_events`.
        self.side = Portal("umbel-heartbeat")
        patience = OUTAGE_PATIENCE_SECONDS
        self.store = Store(connection_to(url, portal, patience_seconds=patience, grouped=grouped), settings)
        # In Celery's own pools a process may exit right after an attempt, so the attempt waits until messages are sent.
        self.engine = Engine(self.store, dispatcher(portal), sends_soon=plain is not None)
        flushing = Store(connection_to(url, self.side, patience_seconds=patience), settings)
        self.flushing = Engine(flushing, dispatcher(self.side))
        self.collecting = Store(connection_to(url, self.side, patience_seconds=1.0, silence_seconds=1.0), settings)
        # A heartbeat on a connection that has gone silent must be retried before the lease expires.
        silence = min(settings.lease_seconds / 3, 5.0)
        beating = connection_to(url, self.side, patience_seconds=settings.heartbeat_seconds, silence_seconds=silence)
        self.attempts, self.suspects = RunningAttempts(), Suspects(one_at_a_time=one_at_a_time)
        heartbeat = Engine(Store(beating, settings), self.flushing.dispatcher)
        self.lease_holder = LeaseHolder(worker, heartbeat, self.side, self.attempts.cancel)
        self.flusher = Flusher(self.side, settings.flush_seconds)
        self._logs = kept_step_logs(flushing)
        # Attempts of several threads share the portal's loop. An async step that blocks must not delay the others.
        self._async_steps = None if one_at_a_time or plain is not None else Portal("umbel-async-steps")
        self._loop_of, self._continuation, self._plain = loop_of, continuation, plain

    def close(self) -> None:
        """Stop the threads and release all held work."""
        self.engine.close()
        self.lease_holder.close()
        if self._async_steps is not None:
            self._async_steps.close()
        self.side.close()
        self.portal.close()

    def run_ended(self, run_id: str) -> None:
        """Cancel the steps of an ended run that are running here."""
        self.attempts.run_ended(run_id)
        self.registry.run_ended(run_id)

    def step_cancelled(self, member: str) -> None:
        """Stop a cancelled step if it is running here."""
        self.attempts.cancel(Held.parse(member), "it was cancelled")

    # -- a message -----------------------------------------------------------------------------------------------------

    def deliver_blocking(self, run_id: str, work_id: str, dispatch_no: int) -> DeliveryResult:
        """`deliver` for Celery's own pools: blocks, and calls plain steps in this thread."""
        return self.portal.serve(lambda caller: self.deliver(run_id, work_id, dispatch_no, caller))

    async def deliver(
        self, run_id: str, work_id: str, dispatch_no: int, plain: PlainCalls | None = None
    ) -> DeliveryResult:
        """Process one dispatch: claim its work, execute it, commit.

        Returns:
            The result, for logs. Finding nothing to do is not an error.

        Raises:
            AttemptFailed: The step has failed, and the failure is recorded with all its consequences.
            StoreUnavailable: Redis was unreachable for too long; the work is kept and will be dispatched again.
        """
        plain = plain or self._plain
        assert plain is not None
        try:
            work = await self._claim(run_id, work_id, dispatch_no, NO_SUSPECTS)
            if work is Refusal.SUSPECT:
                return await self._deliver_suspect(run_id, work_id, dispatch_no, plain)
            return await self._carry_out(work, plain, self.settings.continuation_seconds)
        except asyncio.CancelledError as cancelled:
            if not reached_time_limit(cancelled):
                raise
            raise StepTimeoutError(_OUT_OF_TIME.format(work_id, run_id)) from None

    async def _deliver_suspect(self, run_id: str, work_id: str, dispatch_no: int, plain: PlainCalls) -> DeliveryResult:
        for level in range(1, MOST + 1):
            permit = await self.suspects.permit(level)
            work: Work | Refusal | None = None
            try:
                work = await self._claim(run_id, work_id, dispatch_no, permit.room)
                if work is not Refusal.SUSPECT:
                    return await self._carry_out(work, plain, 0.0)  # a suspect runs alone: no local continuation
            finally:
                permit.end(went_well=isinstance(work, Work))
        return DeliveryResult(Refusal.SUSPECT)

    async def _claim(self, run_id: str, work_id: str, dispatch_no: int, room: Room) -> Work | Refusal:
        for _ in range(2):
            held = Held(run_id, work_id, new_nonce())
            self.lease_holder.hold(held)
            self.attempts.enter(held)
            owner = self.lease_holder.name
            try:
                reply = await self.engine.claim(
                    run_id, work_id, dispatch_no, claim_id=held.claim_id, owner=owner, room=room
                )
            except BaseException:
                self._let_go(held)
                raise
            if isinstance(reply, Work):
                self.lease_holder.confirm(held)
                self.lease_holder.histograms.waited(reply.queue, reply.claimed_at - reply.dispatched_at)
                return reply
            self._let_go(held)
            if reply is not Refusal.FENCED:
                return reply
            self.lease_holder.begin_new_incarnation(owner)
        return Refusal.FENCED

    async def _carry_out(self, work: Work | Refusal, plain: PlainCalls, continuation_seconds: float) -> DeliveryResult:
        if isinstance(work, Refusal):
            return DeliveryResult.of(work.value)
        began = time.monotonic()
        until = began + (continuation_seconds if self._continuation is not None else 0.0)
        first = await Isolated(self._attempt(work, plain, until))
        following, seconds = first.following, time.monotonic() - began
        while following is not None:
            following = await Isolated(self._go_on(following, plain, until))
        if (failed := first.failed) is not None:
            try:
                raise failed
            finally:
                del failed, first  # the error's traceback refers to this frame
        return DeliveryResult.of(first.text, seconds if first.following is not None else None)

    # -- an attempt ----------------------------------------------------------------------------------------------------

    async def _attempt(self, work: Work, plain: PlainCalls, until: float) -> Ended:
        held = work.held
        running = self.attempts.enter(held)
        try:
            return await self._execute(work, running, plain, until)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, StoreUnavailable) or is_ending(error):
                raise
            return Ended("failed", await undisturbed(settle_unrecorded(self.engine, work, error)))
        finally:
            # Work that ended without a commit (cancelled, or Redis unreachable) is released by the next heartbeat.
            self._let_go(held)

    def _let_go(self, held: Held) -> None:
        self.attempts.leave(held)
        self.lease_holder.drop(held)

    async def _execute(self, work: Work, running: Running, plain: PlainCalls, until: float) -> Ended:
        began = time.monotonic()
        registered = self.registry.find(work.workflow, work.run_id)
        if registered is None or work.step not in registered.steps:
            return await park(self.engine.leases, self.registry, work)
        plan = self.store.known_plan(work.plan_digest) or await self.store.plan(work.run_id, work.plan_digest)
        if work.segments:
            await self.engine.clear_staged(work)
        work, recorded = await with_recorded(self.store, work)
        emissions = self._emissions(work, plan, running)
        stores = self.store, self.collecting, self.flushing.store
        context = StepContext(work, emissions, *stores, registered, self.registry, recorded, self._logs)
        if context.writes_back:
            emissions.before_sends = context.write_state
        if isinstance(emissions, VerboseEmissions):
            log_started(work)
        error: BaseException | None = None
        try:
            outcome, error = await self._outcome(work, registered, context, running, plain)
            clear_frames(error)
            if outcome is None:
                return Ended("cancelled")
            if not all(map(context.routes, routed_events(outcome))) or context.misrouted is not None:
                return await park_misrouted(self.engine.leases, self.registry, work, plan, registered, context)
            if isinstance(emissions, VerboseEmissions):
                log_outcome(work, outcome)
            has_cancelled = isinstance(error, asyncio.CancelledError)  # by the step itself, and this may repeat
            commit = self._commit(work, plan, outcome, emissions, context, 0.0 if has_cancelled else until)
            reply = await (undisturbed(commit) if has_cancelled else commit)
            if isinstance(reply, Refusal):
                return Ended(reply.value)
            self.lease_holder.histograms.took(work.workflow, work.step, 1000 * (time.monotonic() - began))
            if (gained := reply.continued) is not None:
                self.attempts.enter(gained.held, after=running)
            if isinstance(outcome, Failed):
                text = f"attempt {work.attempt}: {failure_text(outcome)}"
                return Ended("failed", AttemptFailed(text, outcome.retry_delay_seconds, error), gained)
            return Ended(f"attempt {work.attempt} {OUTCOME_WORDS[type(outcome)]}", None, gained)
        except CannotBind as unbound:
            return await park(self.engine.leases, self.registry, work, unbound.lacks, str(unbound))
        finally:
            del error  # its traceback refers to this frame

    async def _outcome(
        self, work: Work, registered: Registered, context: StepContext, running: Running, plain: PlainCalls
    ) -> tuple[Outcome | None, BaseException | None]:
        """Execute user code; return its outcome (None if the attempt was cancelled) and the error if it failed."""
        try:
            return await self._call(work, registered, context, running, plain), None
        except Abandoned as abandoned:
            log_cancelled(work, str(abandoned))
            return None, None
        except Raised as raised:
            error: BaseException = raised.error
        except (Exception, asyncio.CancelledError) as raised:
            error = raised
        if isinstance(error, asyncio.CancelledError) and reached_time_limit(error):
            error = StepTimeoutError(_OUT_OF_TIME.format(work.step, work.run_id))
        elif is_ending(error):
            raise error
        forget_cancellations()
        return await self._failed(work, registered, running, error, context.emissions), error

    async def _call(
        self, work: Work, registered: Registered, context: StepContext, running: Running, plain: PlainCalls
    ) -> Outcome | None:
        """Execute user code; None if the attempt was cancelled from outside."""
        if running.reason is not None:
            log_cancelled(work, running.reason)
            return None
        timeout_seconds = registered.steps[work.step].timeout_seconds
        check_may_begin(work, self.settings.max_losses, timeout_seconds)
        if (recorded := await context.recorded_outcome()) is not None:
            return recorded
        loop = asyncio.get_running_loop()
        chosen = self._loop_of(work.run_id) if self._loop_of is not None else None
        if chosen is not None and chosen.is_running():
            loop = chosen
        elif self._async_steps is not None:
            loop = self._async_steps.loop
        calling = Calling(work, running, plain, loop, timeout_seconds, callers_loop=loop is chosen)
        return await call_step(work, registered, context, self.store, calling)

    async def _failed(
        self, work: Work, registered: Registered, running: Running, error: BaseException, emissions: Emissions
    ) -> Outcome | None:
        """The outcome for an exception; None if it does not count as a failure of the step.

        It does not count if the attempt was cancelled or is obsolete, or if umbel's own Redis is unreachable: another
        process has the work, or it is released later. A `RunClosed` about another attempt is a failure like others.
        """
        is_away = isinstance(error, StoreUnavailable) and error.where == redact_url(self.settings.redis_url or "")
        is_obsolete = isinstance(error, RunClosed) and error.claim_id == work.claim_id
        reason = running.reason or (str(error) if is_away or is_obsolete else None)
        if reason is not None:
            log_cancelled(work, reason)
            return None
        return await failed_outcome(work, registered, error, self.store, running.context, emissions.trace)

    def _emissions(self, work: Work, plan: Plan, running: Running) -> Emissions:
        kind = VerboseEmissions if is_verbose(work) else Emissions
        return kind(work, plan, self.flushing, lost=running.refused, notify=self.flusher.notify)

    async def _commit(
        self, work: Work, plan: Plan, outcome: Outcome, emissions: Emissions, context: StepContext, until: float
    ) -> Applied | Refusal:
        """Record the outcome with everything the step did, or return why that was refused."""
        await context.keep_log()
        publishes, sends = await emissions.close(is_final=isinstance(outcome, Returned | FannedOut))
        emitted = Emitted(publishes, sends, emissions.batches, context.exchanges, context.taken, context.state_to_write)
        carry_on = self._carry_on(work.run_id, plan, until)
        gained: Work | None = None
        try:
            entry, quickly = journal_entry(outcome, context), not isinstance(emissions, VerboseEmissions)
            committed = await self.engine.commit(
                work, plan, outcome, emitted, entry=entry, carry_on=carry_on, quickly=quickly
            )
            gained = committed.reply.continued if isinstance(committed.reply, Applied) else None
        finally:
            if carry_on is not None:
                self.lease_holder.settle(carry_on.claim_id, None if gained is None else gained.held)
        if isinstance(committed.reply, Refusal):
            log_refused(work, committed.reply)
        elif isinstance(emissions, VerboseEmissions) and not committed.reply.ended:
            log_enqueued(committed.commands, committed.reply)
        return committed.reply

    # -- local continuation --------------------------------------------------------------------------------------------

    def _carry_on(self, run_id: str, plan: Plan, until: float) -> CarryOn | None:
        """The offer to continue with work that a commit makes ready."""
        if self._continuation is None or time.monotonic() >= until:
            return None
        not_steps = self._continuation.not_steps(plan, self.registry.find(plan.workflow, run_id))
        claim_id = new_nonce()
        self.lease_holder.offer(claim_id)
        return CarryOn(claim_id, not_steps)

    async def _go_on(self, work: Work, plain: PlainCalls, until: float) -> Work | None:
        """Execute work that the previous commit claimed for this process."""
        assert self._continuation is not None
        plan = self.store.known_plan(work.plan_digest)
        assert plan is not None  # the previous work belongs to the same run
        reporter = self._continuation.reporter
        reporter.began(work, plan)
        began = time.monotonic()
        ended = Ended("cancelled")
        try:
            ended = await self._attempt(work, plain, until)
        except Exception as error:  # the previous commit is recorded, so its task has not failed
            message = f"step {work.step} of run {work.run_id} is left to its lease: {error!r}"
            logger.error(message, extra={"action": "step_left", "run_id": work.run_id, "step": work.step})
            ended = Ended("cancelled", AttemptFailed(message).with_traceback(error.__traceback__))
        finally:
            reporter.ended(work, plan, ended.text, ended.failed, time.monotonic() - began)
        following = ended.following
        del ended  # as above
        return following

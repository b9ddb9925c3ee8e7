"""The engine: what happens to a run, from its start to its end, and everything that follows from each change.

Every verb does its whole work: look at the run's surroundings, `decide`, run one script, and do what its answer asks
for (dispatch what became ready, admit the next run of a limited workflow, wake a short retry early). If the script
answers that the surroundings have changed, the verb decides again. Client, attempt, sweep and server use one engine.

*Promise.* Each script is atomic and may be repeated. After a crash between a script and what follows from it, the sweep
does the rest: the script itself writes the unclaimed index, the timers and the admissions to be released.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..connection.keys import check_run_id, new_nonce
from ..model.commands import Command, EndStatus, WhenBusy
from ..model.decide import CHUNK, Decision, Limits, decide, decide_start, route, routed_events
from ..model.envelope import Envelope
from ..model.errors import (
    RunEnded,
    RunNotFound,
    UmbelError,
)
from ..model.plan import Plan
from ..model.suspicion import NO_SUSPECTS, Room
from ..model.waiters import Surroundings
from ..model.work_item import Failed, Origin, Outcome, Suspended, Work, derive_id
from ..store.replies import Applied, CarryOn, Dispatch, Refusal, not_found, not_retried
from ..store.verbs import Store
from .cancelling.selection import Selection
from .cancelling.step_cancels import cancel_work
from .children.outbox import Outbox
from .concurrency import RunQuota
from .dispatcher import Dispatcher, dispatch_applied
from .emitted import Committed, Emitted, Sent
from .leases import Leases
from .quick import QuickCommits
from .staging import stage, unstage
from .turns import Turns, not_started

logger = logging.getLogger("umbel.engine")

#: Makes the messages that a start's script sends itself, from plan, run id and commands: work id -> (list, message).
PushOf = Callable[[Plan, str, Sequence[Command]], dict[str, tuple[str, str]] | None]

#: Added to a retry's delay, so that the millisecond of its timer is over when it is woken.
_PUNCTUALITY_SECONDS = 0.002


class Engine:
    """The verbs on runs. Made once per process and portal; its methods may be awaited on any loop."""

    def __init__(self, store: Store, dispatcher: Dispatcher, *, sends_soon: bool = False) -> None:
        """Args:
        store: The runs.
        dispatcher: Sends the messages for work that became ready.
        sends_soon: Whether attempts do not wait until their messages are sent.
        """
        settings = store.settings
        self.store, self.dispatcher = store, dispatcher
        self.limits = Limits(settings.queue, settings.inbox_max_events)
        self.leases = Leases(store)
        self.quota = RunQuota(store, dispatcher)
        self.outbox = Outbox(store, self)
        self.turns = Turns(store, dispatcher, self.quota)
        self._quick = QuickCommits(store, self.limits) if settings.quick_commits else None
        self._sends_soon = sends_soon
        self._waking: set[asyncio.TimerHandle | asyncio.Task[None]] = set()

    # -- a run's life --------------------------------------------------------------------------------------------------

    async def start(
        self,
        run_id: str,
        plan: Plan,
        event: Envelope | None,
        *,
        timeout_seconds: float | None = None,
        options: dict[str, Any] | None = None,
        parent: str | None = None,
        num_concurrent_runs: int | None = None,
        when_busy: WhenBusy | None = None,
        limits: Limits | None = None,
        push: PushOf | None = None,
        nonce: str | None = None,
    ) -> None:
        """Begin a run. *Promise:* when this returns, the run is in Redis and will be executed.

        Args:
            run_id: The new run's.
            plan: Its workflow.
            event: The start event.
            timeout_seconds: The run's time limit, from its start or admission.
            options: Kept with the run.
            parent: The run that waits for its end.
            num_concurrent_runs: How many runs of the workflow may execute at a time, across the deployment.
            when_busy: For a run of a session, which its id names: what to do while another one is in progress. See
                `Store.start`.
            limits: For routing; by default those of the deployment.
            push: Makes the messages that the script sends itself, where the broker is the state Redis.
            nonce: Identifies this start when it is repeated; by default each call is a new start.

        Raises:
            RunExists: The id is taken.
            SessionBusy, SessionFull, SessionClosed: The session does not accept it.
            StoreUnavailable: Redis did not answer; with an id of your own, starting again is safe.
        """
        commands = [] if event is None else decide_start(plan, run_id, event, limits or self.limits)
        pushed = push(plan, run_id, commands) if push is not None else None
        reply = await self.store.start(
            run_id,
            plan,
            commands,
            nonce=nonce or new_nonce(),
            timeout_seconds=timeout_seconds,
            options=options,
            parent=parent,
            num_concurrent_runs=num_concurrent_runs,
            push=pushed,
            when_busy=when_busy,
        )
        await self.started(run_id, plan, reply, limited=num_concurrent_runs is not None)

    async def started(self, run_id: str, plan: Plan, reply: Applied | Refusal, *, limited: bool) -> None:
        """Do what follows from the answer to a start.

        Raises:
            RunExists, SessionBusy, SessionFull, SessionClosed: As in `start`.
        """
        if isinstance(reply, Refusal):
            raise not_started(run_id, reply, self.store.settings.session_max_waiting)
        await self.dispatcher.dispatch(plan, reply.dispatches)
        if limited:
            await self.quota.take(run_id)
        await self.turns.pass_on(reply)
        if reply.interrupted is not None:
            await self._after_end(*reply.interrupted)

    async def finish(self, run_id: str, status: EndStatus, event: Envelope, *, if_due: bool = False) -> bool:
        """End a run from outside its steps. True when this call ended it; the first end wins.

        Args:
            run_id, status, event: The run, how it ends, and its last event.
            if_due: Only if its time limit is over.

        Raises:
            RunNotFound: No such run.
        """
        ended = await self.store.finish(run_id, status, event, if_due=if_due)
        if ended is not None:
            await self._after_end(run_id, ended)
        return ended is not None

    async def _after_end(self, run_id: str, ended: Applied) -> None:
        """Do what the end of a run requires for other runs. Never raises: the sweep does what is left."""
        await self.turns.pass_on(ended)
        await self.outbox.follow(run_id, ended)

    async def retry(self, run_id: str) -> Applied:
        """Execute the unfinished steps of an ended run; what has been done is kept. Its time limit starts again.

        *Promise:* one script decides and revives, so one of two concurrent callers gets `NotRetried`: it is running.

        Raises:
            NotRetried: The run is running, has completed, or has no unfinished step.
            RunNotFound: No such run, or its retention is over.
        """
        record = await self.store.run(check_run_id(run_id))
        reply = await self.store.revive(run_id, timeout_seconds=record.options.get("timeout"))
        if not isinstance(reply, Applied):
            raise not_retried(run_id, reply)
        await self.dispatch(run_id, reply.dispatches)
        await self.quota.take(run_id)
        return reply

    # -- events from outside -------------------------------------------------------------------------------------------

    async def send(
        self, run_id: str, send_id: str, plan: Plan, event: Envelope, target: str | None, limits: Limits | None = None
    ) -> None:
        """Send an event into a run. *Promise:* applied once per `send_id`, even if the call is repeated.

        Args:
            run_id: The run.
            send_id: Identifies this send.
            plan: The run's.
            event: What is sent.
            target: The only step it is for; checked by the caller.
            limits: For routing; by default those of the deployment.

        Raises:
            RunNotFound: No such run.
            RunEnded: It has ended.
        """
        origin = Origin(run_id, "outside")
        emit_id = derive_id(run_id, "outside", send_id)
        reply: Applied | Refusal = Refusal.CHANGED
        while reply is Refusal.CHANGED:
            surroundings = await self.store.waiters_for(run_id, [event])
            commands = route(plan, event, origin, emit_id, surroundings, limits or self.limits, target=target)
            reply = await self.store.send(run_id, send_id, commands, surroundings=surroundings)
        if reply is Refusal.UNKNOWN:
            raise RunNotFound(not_found(run_id))
        if isinstance(reply, Refusal):
            name = event.type.rpartition(".")[2]
            raise RunEnded(f"Run {run_id!r} has ended; {name} was not delivered. Start a new run.")
        await self.dispatcher.dispatch(plan, reply.dispatches)

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def claim(
        self,
        run_id: str,
        work_id: str,
        dispatch_no: int,
        *,
        claim_id: str,
        owner: str,
        room: Room = NO_SUSPECTS,
    ) -> Work | Refusal:
        """See `Store.claim`."""
        return await self.store.claim(run_id, work_id, dispatch_no, claim_id=claim_id, owner=owner, room=room)

    async def clear_staged(self, work: Work) -> None:
        """Remove what earlier attempts have staged and not committed. Call it before anything else is staged."""
        await unstage(self.store, work, CHUNK // 5)  # an entry may have CHUNK events

    async def flush(
        self, work: Work, plan: Plan, *, batch: int, publishes: Sequence[Command], sends: Sequence[Sent], exchanges: int
    ) -> Applied | Refusal:
        """Write what a running step has emitted; `exchanges` as in `Emitted`. *Promise:* once per batch number."""
        events = [event for _, event, _ in sends]
        surroundings = await self.store.waiters_for(work.run_id, events) if sends and work.version else Surroundings()
        while True:
            reply = await self.store.flush(
                work,
                plan,
                batch=batch,
                surroundings=surroundings,
                publishes=publishes,
                sends=self._routed(work, plan, sends, surroundings)[0],
                exchanges=exchanges,
            )
            if reply is not Refusal.CHANGED:
                break
            surroundings = await self.store.waiters_for(work.run_id, events)
        if isinstance(reply, Applied):
            await self._send_messages(plan, reply.dispatches)
            await self.outbox.follow(work.run_id, reply)
        return reply

    async def commit(
        self,
        work: Work,
        plan: Plan,
        outcome: Outcome,
        emitted: Emitted,
        *,
        entry: Mapping[str, Any],
        carry_on: CarryOn | None = None,
        quickly: bool = True,
    ) -> Committed:
        """Record the outcome of a claimed work item and everything its step did, under its token, atomically.

        Args:
            work: What was claimed.
            plan: The run's.
            outcome: The outcome of the attempt.
            emitted: What else it emitted.
            entry: The journal's summary of this attempt.
            carry_on: The offer to continue with work that this commit makes ready.
            quickly: Whether a quick commit will do; False if the caller needs the commands.
        """
        prepared = None
        if quickly and self._quick is not None:
            prepared = self._quick.prepared(work, plan, outcome, emitted)
            if prepared is not None and carry_on is not None:
                following = await self._quick.hop(prepared, work, emitted, entry, carry_on)
                if following is not None:
                    return Committed(Applied(continued=following))
        decision = None if prepared is None else prepared.decision
        surroundings = await self._around(work, outcome, emitted) if work.version else Surroundings()
        while True:
            decision = decision or self.decided(work, plan, outcome, emitted, surroundings)
            refused = await stage(self.store, work, decision, CHUNK) if decision.staged else None
            reply = refused or await self.store.commit(
                work,
                plan,
                decision,
                surroundings=surroundings,
                batches=emitted.batches,
                exchanges=emitted.exchanges,
                entry=dict(entry),
                taken=emitted.taken,
                state=emitted.state,
                carry_on=carry_on,
            )
            if reply is not Refusal.CHANGED:
                break
            surroundings, decision = await self._around(work, outcome, emitted), None
        if isinstance(reply, Applied):
            await self._send_messages(plan, reply.dispatches)
            if reply.ended:
                await self._after_end(work.run_id, reply)
            elif reply.starts or reply.rests:
                await self.outbox.follow(work.run_id, reply)
            if isinstance(outcome, Failed) and outcome.retry_delay_seconds:
                self._wake_in(outcome.retry_delay_seconds, work, plan)
        return Committed(reply, decision.commands)

    def decided(
        self, work: Work, plan: Plan, outcome: Outcome, emitted: Emitted, surroundings: Surroundings
    ) -> Decision:
        """Decide what follows from an outcome and everything else that an attempt emitted. Writes nothing."""
        routed, left = self._routed(work, plan, emitted.sends, surroundings)
        decision = decide(plan, work, outcome, left, self.limits)
        commands = [*emitted.publishes, *(command for _, sent in routed for command in sent), *decision.commands]
        return replace(decision, commands=commands, sensitive=decision.sensitive or bool(emitted.sends))

    async def _around(self, work: Work, outcome: Outcome, emitted: Emitted) -> Surroundings:
        """The surroundings that matter to a decision. No outcome depends on both the waiters and the inbox."""
        if isinstance(outcome, Suspended):
            return await self.store.inbox(work.run_id)
        events = [*(event for _, event, _ in emitted.sends), *routed_events(outcome)]
        return await self.store.waiters_for(work.run_id, events) if events else Surroundings()

    def _routed(
        self, work: Work, plan: Plan, sends: Sequence[Sent], surroundings: Surroundings
    ) -> tuple[list[tuple[str, list[Command]]], Surroundings]:
        """Route sent events: identity and commands of each, and the surroundings after them.

        A sent event is outside the step's fan-outs: only returned events can be gathered.
        """
        origin = Origin(work.ids_of, work.work_id, recoveries=work.recoveries)
        routed = []
        for emit_id, event, target in sends:
            commands = route(plan, event, origin, emit_id, surroundings, self.limits, target=target)
            routed.append((emit_id, commands))
            surroundings = surroundings.after(event)
        return routed, surroundings

    async def cancel_work(self, run_id: str, selection: Selection, *, reason: str = "", **about: Any) -> int:
        """Cancel single steps of a running run, see `step_cancels.py`; returns how many work items that were."""
        plan = await self.store.plan_of(run_id)
        count, changes = await cancel_work(self.store, run_id, plan, selection, self.limits, reason=reason, **about)
        for change in changes:
            await self.follow(run_id, change)
        return count

    async def follow(self, run_id: str, changed: Applied) -> None:
        """Do what follows from a change of a run: send the messages for its work, and what other runs require."""
        await self.dispatch(run_id, changed.dispatches)
        await self._after_end(run_id, changed)

    async def dispatch(self, run_id: str, dispatches: Sequence[Dispatch]) -> None:
        """Send the messages for a run's work; looks up its plan. Never raises: the sweep sends what is left."""
        await dispatch_applied(self.dispatcher, partial(self.store.plan_of, run_id), dispatches)

    def _wake_in(self, seconds: float, work: Work, plan: Plan) -> None:
        """Wake a retry punctually after a short delay: sweeps act on its timer in Redis only every `sweep_seconds`."""
        if seconds > 2 * self.store.settings.sweep_seconds:
            return
        loop = asyncio.get_running_loop()

        def begin() -> None:
            self._waking.discard(timer)
            task = loop.create_task(self._wake(work, plan))
            self._waking.add(task)
            task.add_done_callback(self._waking.discard)

        timer = loop.call_later(seconds + _PUNCTUALITY_SECONDS, begin)
        self._waking.add(timer)

    async def _wake(self, work: Work, plan: Plan) -> None:
        timer = f"retry|{work.run_id}|{work.work_id}"
        try:
            woken = await self.leases.wake(work.run_id, timer, "retry", work.work_id)
        except UmbelError as error:
            logger.info("a retry is left to the sweep: %s", error, extra={"action": "wake_failed"})
            return
        if woken is not None:
            await self._send_messages(plan, woken.dispatches)

    async def _send_messages(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        if dispatches and self._sends_soon:
            self.dispatcher.dispatch_soon(plan, dispatches)
        elif dispatches:
            await self.dispatcher.dispatch(plan, dispatches)

    def close(self) -> None:
        """Stop waking retries: the sweep acts on their timers."""
        for each in list(self._waking):
            with contextlib.suppress(RuntimeError):  # its loop is closed already
                each.cancel()

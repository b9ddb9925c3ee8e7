"""Actions on a run through its handler: sending events, cancelling the run or some of its steps."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from ...orchestration.connection.keys import new_id
from ...orchestration.engine.protocol import Engine
from ...orchestration.model.decide import Limits
from ...orchestration.model.envelope import CANCELLED, ending
from ...orchestration.model.errors import WorkflowRuntimeError
from ...orchestration.model.plan import Plan
from ...orchestration.streams.reader import StreamHub
from ..context.emissions import check_target, selected
from ..context.tracing import tracing
from ..events.codec import encode_event
from ..events.event import Event
from ..events.run_events import SYSTEM_EVENTS
from .settled import AwaitedOrBlocking


class WithActions(AwaitedOrBlocking):
    """The actions of a handler. Each takes effect once, even if a reply is lost and the request is repeated."""

    run_id: str
    _engine: Engine
    _hub: StreamHub
    _limits: Limits
    _code: Plan | None

    def send_event(self, event: Event, step: str | None = None) -> Awaitable[None]:
        """Send an event into the run, to all accepting steps and waiters or to one step.

        On an event loop it starts at once and may be awaited; without one it blocks until the event is in Redis.
        *Promise:* applied once, even if a reply is lost and the request is repeated.

        Raises:
            WorkflowRuntimeError: The run has ended; there is no such step, or it does not accept the event; or the run
                was started with other code that does not accept the event, although the code here does.
            RunNotFound: There is no such run.
        """
        return self._begun(self._send(event, step))

    def deliver(self, event: Event) -> None:
        """`send_event`, blocking even on an event loop."""
        self._portal.call(self._send(event))

    async def _send(self, event: Event, step: str | None = None) -> None:
        store = self._engine.store
        if isinstance(event, SYSTEM_EVENTS):
            raise WorkflowRuntimeError(
                f"{type(event).__name__} cannot be sent to run {self.run_id!r}: only umbel creates such events, and "
                "steps trust them. Send an event of a class of your own."
            )
        envelope = encode_event(event, store.settings)
        if (traced := tracing()) is not None:
            envelope = envelope.marked(traced.current())
        plan = await store.plan_of(self.run_id)
        check_target(plan, envelope, step)
        if self._code is not None and plan.misroutes(envelope, self._code):
            waiting = await store.waiters_for(self.run_id, [envelope])
            if not any(waiter.matches(envelope) for waiter in waiting.waiters):
                raise WorkflowRuntimeError(
                    f"Run {self.run_id!r} was started by other code of {plan.workflow!r}, in which no step accepts "
                    f"{envelope.type}; it was not sent. Send an event that it accepts: "
                    f"{', '.join(sorted({name for each in plan.steps for name in each.accepts}))}."
                )
        await self._engine.send(self.run_id, new_id(), plan, envelope, step, self._limits)

    async def cancel_run(self, *, timeout: float = 5.0) -> None:
        """Cancel the run and wait, at most `timeout` seconds, until its end is visible. Never raises."""
        try:
            await self._portal.run(self._cancel())
            await self._hub.await_ended(self.run_id, timeout)
        except Exception:  # as in LlamaIndex Workflows: await the handler for the outcome
            return

    def cancel(self) -> Awaitable[bool]:
        """Cancel the run; True if this call ended it. Blocks without an event loop; to be awaited on one."""
        return self._begun(self._cancel())

    async def _cancel(self) -> bool:
        return await self._engine.finish(self.run_id, "cancelled", ending(CANCELLED))

    def cancel_step(
        self,
        step: str,
        *,
        work_id: str | None = None,
        where: Mapping[str, Any] | None = None,
        downstream: bool = False,
        instead: Event | None = None,
        reason: str = "",
    ) -> Awaitable[int]:
        """Cancel the executions of a step that have not ended, and return how many: see `Context.cancel_step`."""
        event = None if instead is None else encode_event(instead, self._engine.store.settings)
        work_ids = None if work_id is None else frozenset({work_id})
        selection = selected(f"cancel_step() on run {self.run_id!r}", step, where or {}, work_ids=work_ids)
        about: dict[str, Any] = {"downstream": downstream, "instead": event, "reason": reason}
        return self._begun(self._engine.cancel_work(self.run_id, selection, **about))

"""Attempts carried out by an event loop: a thousand steps that wait need one thread.

Scripts of all attempts ride in shared pipelines (`orchestration/store/pipeline.py`). An `async def` step is a task of
this loop; a plain one gets a thread. After a commit the loop goes on with what that made ready, in the same slot and
past the broker, for as long as `continuation_seconds` allow.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from ...orchestration.engine.leases import Held
from ...orchestration.model.errors import StepTimeoutError
from ...orchestration.model.plan import Plan, StepPlan
from ...orchestration.model.work_item import Outcome, Work
from ...orchestration.store.failpoints import failpoint
from ...orchestration.store.keys import new_nonce
from ...orchestration.store.pipeline import Connection
from ...orchestration.store.portal import Portal
from ...orchestration.store.replies import Applied, CarryOn, Dispatch, Refusal
from ...orchestration.store.verbs import Store as AsyncStore
from ..messages.dispatcher import CeleryDispatcher
from .executor import PATIENCE_SECONDS, Executor
from .requests import Block, CallStep, Flow, Request, Ring, Send, TakePermit
from .running import TIME_LIMIT, Abandoned, AttemptFailed
from .step_call import call_step, call_step_on_loop
from .suspects import give_up_permit

logger = logging.getLogger("umbel.execution")

#: Threads for exchanges that block (large fan-outs, waiters, other brokers); they take a millisecond or two each.
_EXCHANGE_THREADS = 8
#: How soon it is noticed that this worker may no longer go on with a step.
_ASK_AGAIN_SECONDS = 0.5


class Reporter(Protocol):
    """Tells monitors of work that no message was sent for."""

    def began(self, work: Work, plan: Plan) -> None:
        """An attempt begins."""

    def ended(self, work: Work, plan: Plan, text: str, failed: AttemptFailed | None, seconds: float) -> None:
        """It has ended."""


class LoopExecutor(Executor):
    """Executes steps on the event loop it is used on."""

    def __init__(
        self,
        *args: Any,
        threads: ThreadPoolExecutor | None = None,
        takes: Callable[[StepPlan], bool] = lambda _: True,
        reporter: Reporter | None = None,
        **more: Any,
    ) -> None:
        """Args:
        *args, **more: As of `Executor`.
        threads: For plain steps; as many are executed at once.
        takes: Whether this worker may execute a step that it has not got from its queue.
        reporter: DeliveryResult of what it goes on with.
        """
        super().__init__(*args, **more)
        assert self.settings.redis_url is not None
        self._portal = Portal("umbel-steps", asyncio.get_running_loop())
        self._group = self._connection(self.settings.redis_url)
        self._loop_store = AsyncStore(self._group, self.settings)
        self._broker: Connection | None = None
        self._outgoing: dict[str, list[str]] = {}
        self._exchanges = ThreadPoolExecutor(_EXCHANGE_THREADS, thread_name_prefix="umbel-exchange")
        self._threads = threads or ThreadPoolExecutor(thread_name_prefix="umbel-step")
        self._takes, self._reporter = takes, reporter
        self._not_steps: dict[str, tuple[float, tuple[str, ...]]] = {}  # plan digest -> when asked, steps
        self._dispatching: set[asyncio.Future[Any]] = set()

    @property
    def _state_store(self) -> AsyncStore:
        return self._loop_store

    async def execute_on_loop(self, run_id: str, work_id: str, dispatch_no: int) -> str:
        """As `execute`, awaited. Cancelled, it cancels the step; the work is given back."""
        flow = self.follow(run_id, work_id, dispatch_no)
        resume: Callable[[Any], Request] = flow.send
        value: Any = None
        try:
            while True:
                request = resume(value)
                try:
                    resume, value = flow.send, await self._await(request)
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        if error.args != (TIME_LIMIT,):
                            self._unwind(flow)
                            raise
                        task.uncancel()
                        text = (
                            f"Celery's hard time limit of its task was reached (run {run_id!r}, dispatch {work_id!r})."
                        )
                        resume, value = flow.throw, StepTimeoutError(text)
                    else:
                        resume, value = flow.throw, error
                except BaseException as error:  # the flow puts things in order, then lets it pass
                    resume, value = flow.throw, error
        except StopIteration as end:
            told: str = end.value
            return told

    @staticmethod
    def _unwind(flow: Flow[str]) -> None:
        """Let a flow that nobody drives any more put in order what needs no exchange."""
        try:
            flow.throw(Abandoned("the worker ends"))
        except (Abandoned, StopIteration):
            return
        flow.close()

    async def _await(self, request: Request) -> Any:
        match request:
            case Send(ask):
                return await self._group.run(ask)
            case CallStep():
                return await self._call_here(request)
            case Ring(plan, dispatches):
                return self._dispatch_soon(plan, dispatches)
            case Block(call):
                return await asyncio.get_running_loop().run_in_executor(self._exchanges, call)
            case TakePermit(level):
                asked = self.suspects.ask(level)
                try:
                    return await asyncio.wrap_future(asked)
                except BaseException:
                    give_up_permit(asked)
                    raise

    async def _call_here(self, request: CallStep) -> Outcome:
        work, registered, face, on_cancel = request.work, request.registered, request.face, request.on_cancel
        loop = asyncio.get_running_loop()
        if registered.steps[work.step].is_async:
            return await call_step_on_loop(work, registered, face, self.store, on_cancel, self._exchanges)
        context = contextvars.copy_context()
        call = partial(context.run, call_step, work, registered, face, self.store, lambda: loop, on_cancel)
        return await loop.run_in_executor(self._threads, call)

    def _dispatch_soon(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Dispatches of one turn of the loop go in one push per queue; what another broker wants goes from a thread."""
        loop = asyncio.get_running_loop()
        messages = self.dispatcher.messages(plan, dispatches) if isinstance(self.dispatcher, CeleryDispatcher) else None
        if messages is None:
            ringing = loop.run_in_executor(self._exchanges, self.dispatcher.dispatch, plan, dispatches)
            self._dispatching.add(ringing)
            ringing.add_done_callback(self._dispatching.discard)
            return
        if not self._outgoing:
            loop.call_soon(self._push_outgoing)
        for key, waiting in messages.items():
            self._outgoing.setdefault(key, []).extend(waiting)

    def _connection(self, url: str) -> Connection:
        grouped = self.settings.grouped_scripts
        return Connection(url, self._portal, patience_seconds=PATIENCE_SECONDS, grouped=grouped)

    def _push_outgoing(self) -> None:
        dispatches, self._outgoing = self._outgoing, {}
        if self._broker is None:
            assert isinstance(self.dispatcher, CeleryDispatcher)  # it made the messages
            url = self.dispatcher.redis_url
            is_shared = url == self.settings.redis_url
            self._broker = self._group if is_shared else self._connection(url)
        for key, messages in dispatches.items():
            for _ in range(failpoint("push", "before")):
                self._broker.post(("LPUSH", key, *messages), partial(self._not_dispatched, len(messages)), name="push")

    @staticmethod
    def _not_dispatched(count: int, error: Exception) -> None:
        about = {"action": "dispatch_failed"}
        logger.warning("%d messages were not sent (%s); the sweep redispatches", count, error, extra=about)

    # -- local continuation ----------------------------------------------------------------------------------------

    def _carry_on(self, plan: Plan, until: float) -> CarryOn | None:
        if time.monotonic() >= until:
            return None
        # Asked every now and then: rate limits and consumed queues change while a worker runs.
        asked_at, not_steps = self._not_steps.get(plan.digest, (0.0, ()))
        if time.monotonic() - asked_at > _ASK_AGAIN_SECONDS:
            registered = self.registry.find(plan.workflow)
            known = registered.steps if registered is not None else {}
            not_steps = tuple(step.name for step in plan.steps if step.name not in known or not self._takes(step))
            self._not_steps[plan.digest] = time.monotonic(), not_steps
        claim_id = new_nonce()
        self.owner.offer(claim_id)
        return CarryOn(claim_id, not_steps)

    def _settle_offer(self, carry_on: CarryOn | None, reply: Applied | Refusal | None) -> None:
        if carry_on is None:
            return
        work = reply.continued if isinstance(reply, Applied) else None
        held = None if work is None else Held(work.run_id, work.work_id, work.claim_id)
        self.owner.settle(carry_on.claim_id, held)

    def _go_on(self, work: Work, until: float) -> Flow[Work | None]:
        plan = self.store.known_plan(work.plan_digest)
        assert plan is not None  # the work before was of the same run
        if self._reporter is not None:
            self._reporter.began(work, plan)
        began = time.monotonic()
        try:
            ended = yield from self._attempt(work, until)
        except Exception as error:  # the commit before is recorded: this is no failure of its task
            told = f"step {work.step} of run {work.run_id} is left to its lease: {error!r}"
            logger.error(told, extra={"action": "step_left", "run_id": work.run_id, "step": work.step})
            self._report(work, plan, "", AttemptFailed(told).with_traceback(error.__traceback__), began)
            return None
        except BaseException:
            self._report(work, plan, "broken off", None, began)
            raise
        self._report(work, plan, ended.text, ended.failed, began)
        return ended.following

    def _report(self, work: Work, plan: Plan, text: str, failed: AttemptFailed | None, began: float) -> None:
        if self._reporter is not None:
            self._reporter.ended(work, plan, text, failed, time.monotonic() - began)

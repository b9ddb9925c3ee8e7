"""Turns: which run begins when another one ends, and why a run could not be started."""

from __future__ import annotations

from functools import partial

from ..model.errors import RunError, RunExists, SessionBusy, SessionClosed, SessionFull
from ..sessions.look import current_run
from ..sessions.names import session_of
from ..store.replies import Applied, Refusal
from ..store.verbs import Store
from .concurrency import RunQuota
from .dispatcher import Dispatcher, dispatch_applied


class Turns:
    """Begins runs that have waited for the end of another one. *Promise:* as for `RunQuota`."""

    def __init__(self, store: Store, dispatcher: Dispatcher, quota: RunQuota) -> None:
        """Args:
        store: The runs.
        dispatcher: Sends the messages for runs that begin.
        quota: Admits runs of workflows with a concurrency limit.
        """
        self.store, self.dispatcher, self.quota = store, dispatcher, quota

    async def pass_on(self, ended: Applied) -> None:
        """Release an ended run's admission, and send the messages of its session's next run if that has begun.

        Never raises: the sweep does what is left.
        """
        await self.quota.pass_on(ended.leaving)
        following = ended.following
        if following is None:
            return
        if following.limited:
            await self.quota.take(following.run_id)
        else:
            plan = partial(self.store.plan, following.run_id, following.plan_digest)
            await dispatch_applied(self.dispatcher, plan, following.dispatches)

    async def look_at(self, state_id: str, now: int) -> None:
        """Begin the next run of a session whose runs have waited for long, if its current run has ended.

        A process of an earlier release ends a run without beginning the next one.

        Args:
            state_id: The session's.
            now: Redis time in ms.
        """
        at = await current_run(self.store, session_of(f"{state_id}."))
        pause = round(self.store.settings.redispatch_max_seconds * 1000)
        advanced = await self.store.advance(at or state_id, look_again_at=now + pause)
        if advanced is not None:
            await self.pass_on(advanced)


def not_started(run_id: str, refusal: Refusal, most: int) -> RunError:
    """Why a run was not started.

    Args:
        run_id: The run that was to start.
        refusal: What Redis answered.
        most: How many runs may wait for their turn in a session.
    """
    session = session_of(run_id)
    if refusal is Refusal.RUNNING:
        return SessionBusy(
            f"A run of session {session!r} is running. Wait for its end, or start the next one with "
            'when_busy="queue" or "interrupt".'
        )
    if refusal is Refusal.FULL:
        return SessionFull(
            f"{most} runs wait for their turn in session {session!r}, and no more may (session_max_waiting). Try again "
            "later, or cancel some of them."
        )
    if refusal is Refusal.FORGOTTEN:
        return SessionBusy(
            f"The state of session {session!r} cannot be put back to what its run began with: what was written since "
            'is not kept. Use when_busy="interrupt", which keeps it; history="full" keeps the last 1,000 writes.'
        )
    if refusal is Refusal.CLOSED:
        return SessionClosed(f"Session {session!r} is closed: it takes no more runs. Use another one.")
    return RunExists(
        f"Workflow run with run_id {run_id!r} already exists. Leave run_id out, or look at that run with "
        f"umbel.attach({run_id!r})."
    )

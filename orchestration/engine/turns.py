"""Whose turn it is: what the end of a run, or a start that found another run, leads to for others."""

from __future__ import annotations

from ..model.errors import RunError, RunExists, SessionBusy, SessionClosed, SessionFull
from ..sessions.look import current_run
from ..sessions.names import session_of
from ..store.replies import Applied, Refusal
from ..store.verbs import Store
from .concurrency import RunQuota
from .dispatcher import Dispatcher


class Turns:
    """Lets runs begin that have waited for the end of another one. *Promise:* as of `RunQuota`."""

    def __init__(self, store: Store, dispatcher: Dispatcher, quota: RunQuota) -> None:
        """Args:
        store: The runs.
        dispatcher: Sends the messages for runs that begin.
        quota: Of workflows that limit how many of their runs execute at a time.
        """
        self.store, self.dispatcher, self.quota = store, dispatcher, quota

    async def pass_on(self, ended: Applied) -> None:
        """A run has ended, and the next one of its session has begun with that: send its messages."""
        await self.quota.pass_on(ended.leaving)
        following = ended.following
        if following is None:
            return
        if following.limited:
            await self.quota.take(following.run_id)
        else:
            plan = await self.store.plan(following.run_id, following.plan_digest)
            await self.dispatcher.dispatch(plan, following.dispatches)

    async def look_at(self, state_id: str, now: int) -> None:
        """Runs of a session have been waiting for long: whether it is at one that has ended.

        A process of an earlier release ends a run without beginning the next one.

        Args:
            state_id: Of the session.
            now: In ms of Redis time.
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

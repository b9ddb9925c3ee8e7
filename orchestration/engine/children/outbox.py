"""The outbox: what a change of one run requires of another run, which may be in another shard.

    commit of the parent ── starts ──> start of the child ── … ──> its end ── reports ──> child_ended ──> …
    (parent's shard)                   (child's shard)       (child's shard)              (parent's shard)
    end of the parent ── parted ──> finish of each child

Each arrow is a separate script, which any process may repeat. Each script records the next one in the outbox of its
shard: the process that made the change runs it at once, and the sweep runs what is left over. No two of the scripts
have to succeed together.

A child's start is identified by a nonce derived from its parent, so the child is started once. Its end is counted once.
A running child is also checked, soon after its start and then from time to time: if Redis was set back to before the
start, the child is started again; if a process of an older release has ended it, or Redis has lost the outbox entry,
its parent still learns of the end, only later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from ...connection.keys import RunKeys
from ...model.commands import END_STATUSES, EndStatus, WhenBusy
from ...model.decide import Limits
from ...model.envelope import CANCELLED, FAILED, Envelope, ending
from ...model.errors import (
    NotRetried,
    RunExists,
    RunNotFound,
    SessionClosed,
    SessionFull,
    UmbelError,
    WorkflowRuntimeError,
)
from ...model.plan import Plan
from ...store.replies import Applied, unpack_raw
from ...store.verbs import Store
from ..cancelling.expiries import expire_buffer, expire_join
from ..cancelling.selection import Selection
from ..cancelling.step_cancels import RestNotDue
from .listing import child_records, is_of_another
from .spec import ChildSpec

logger = logging.getLogger("umbel.children")

#: In the last event of a child that was ended because its parent had ended, or was rewound to before the child.
_BY_PARENT = b'"by_parent":true'

#: How many child runs are started or ended at a time.
_AT_ONCE = 32


class Lives(Protocol):
    """What the outbox needs from the engine."""

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
        nonce: str | None = None,
    ) -> None:
        """Begin a run."""
        ...

    async def finish(self, run_id: str, status: EndStatus, event: Envelope) -> bool:
        """End a run."""
        ...

    async def retry(self, run_id: str) -> Applied:
        """Retry an ended run."""
        ...

    async def cancel_work(self, run_id: str, selection: Selection, *, reason: str = "") -> int:
        """Cancel single steps."""
        ...

    async def follow(self, run_id: str, changed: Applied) -> None:
        """Do what follows from a change of a run."""
        ...


class Outbox:
    """Starts child runs, ends them with their parents, and reports their ends to their parents.

    *Promise:* every method may be repeated, run concurrently and interrupted.
    """

    def __init__(self, store: Store, lives: Lives) -> None:
        """Args:
        store: The runs.
        lives: Starts and ends runs.
        """
        self._store, self._lives = store, lives

    # -- at once, after a change -----------------------------------------------------------------------------------

    async def follow(self, run_id: str, changed: Applied) -> None:
        """Do what a change of a run requires of other runs. Never raises: the sweep does what is left.

        Args:
            run_id: The run that was changed.
            changed: The reply to the change.
        """
        if changed.starts:
            await self._all(self._start(run_id, child_id) for child_id in changed.starts)
        if changed.looks:
            await self._all(self._look(run_id, child_id) for child_id in changed.looks)
        if changed.rests:
            await self._all(self._cancel_rest(run_id, scope_id) for scope_id in changed.rests)
        if changed.reports is not None:
            await self._all([self._report(run_id)])
        if changed.parted:
            await self._all([self._part(run_id)])

    async def _all(self, acts: Iterable[Awaitable[None]]) -> None:
        waiting = list(acts)
        for first in range(0, len(waiting), _AT_ONCE):
            for error in await asyncio.gather(*waiting[first : first + _AT_ONCE], return_exceptions=True):
                if isinstance(error, UmbelError):
                    logger.warning("child runs are left to the sweep: %s", error, extra={"action": "child_postponed"})
                elif isinstance(error, Exception):
                    logger.error(
                        "child runs are left to the sweep", exc_info=error, extra={"action": "child_postponed"}
                    )
                elif error is not None:
                    raise error

    # -- for the sweep ---------------------------------------------------------------------------------------------

    async def settle(self, member: str) -> None:
        """Process an entry of the outbox, which is then removed or postponed."""
        kind, run_id, *more = member.split("|", 2)
        if kind == "child":
            await self._look(run_id, more[0])
        elif kind == "rest":
            await self._cancel_rest(run_id, more[0])
        elif kind in ("join", "buffer"):
            await self._expire(kind, run_id, more[0])
        elif kind == "parked":  # as long as an ended run is kept, which is over
            await self._forget(more[0].partition("|")[0], member)
        elif kind == "ended":
            await self._report(run_id)
        else:
            await self._part(run_id)

    async def _cancel_rest(self, run_id: str, scope_id: str) -> None:
        """Cancel the unfinished work of a fan-out."""
        try:
            await self._lives.cancel_work(run_id, Selection(scope_id=scope_id), reason="a join has all it takes")
        except RestNotDue:
            return
        except (RunNotFound, WorkflowRuntimeError):  # it has ended
            pass
        await self._forget(run_id, f"rest|{run_id}|{scope_id}")

    async def _expire(self, kind: str, run_id: str, buffer: str) -> None:
        """Drop a set of events that did not become complete in time."""
        status = await self._status(run_id)
        if status == "restoring":  # its time limits are stored before it is live; look again later
            key, settings = self._store.locate(run_id)["outbox"], self._store.settings
            seconds, _ = await self._store.command("read the clock", "TIME")
            again_at = round((int(seconds) + settings.redispatch_seconds) * 1000)
            await self._store.command("look later", "ZADD", key, "XX", again_at, f"{kind}|{run_id}|{buffer}")
            return
        if status is None:
            await self._forget(run_id, f"{kind}|{run_id}|{buffer}")
            return
        limits = Limits(self._store.settings.queue, self._store.settings.inbox_max_events)
        expire = expire_join if kind == "join" else expire_buffer
        applied = await expire(self._store, run_id, await self._store.plan_of(run_id), buffer, limits)
        if applied is not None:
            await self._lives.follow(run_id, applied)

    # -- one child -------------------------------------------------------------------------------------------------

    async def _child(self, keys: RunKeys, child_id: str) -> dict[bytes, Any] | None:
        raw = await self._store.command("read a child run", "HGET", keys["children"], child_id)
        return None if raw is None else unpack_raw(raw)

    async def _start(self, parent: str, child_id: str, child: dict[bytes, Any] | None = None) -> None:
        keys = self._store.locate(parent)
        child = child or await self._child(keys, child_id)
        if child is None or not (raw := child.get(b"sp", child.get(b"sb"))):
            return
        spec = ChildSpec.from_bytes(raw)
        digest = child[b"pl"].decode()
        plan = self._store.known_plan(digest)
        if plan is None:
            plan = Plan.from_json(
                await self._store.command("read a child's plan", "HGET", keys["children"], f"plan|{digest}")
            )
        try:
            await self._lives.start(
                child_id,
                plan,
                spec.event,
                timeout_seconds=spec.timeout_seconds,
                options=spec.options,
                parent=parent,
                num_concurrent_runs=spec.num_concurrent_runs,
                when_busy=spec.when_busy,
                limits=Limits(spec.queue, self._store.settings.inbox_max_events),
                nonce=f"{parent}|{child_id}",
            )
        except (RunExists, SessionFull, SessionClosed) as error:
            await self._tell(parent, child_id, "failed", _not_begun(type(error).__name__, str(error)), unbegun=True)
        else:
            await self._look_soon(parent, child_id)

    async def _look_soon(self, parent: str, child_id: str) -> None:
        """Record that a child has begun, and check it soon: Redis may have been set back in between."""
        pause = round(self._store.settings.redispatch_seconds * 1000)
        await self._store.verb("child_started", parent, child=child_id, look=pause, keep=True)

    async def _look_later(self, parent: str, child_id: str, pause_seconds: float) -> None:
        """Record that a child was found running, and check it again later."""
        await self._store.verb("child_started", parent, child=child_id, look=round(pause_seconds * 1000), found=True)

    async def _look_no_more(self, parent: str, child_id: str) -> None:
        """Stop checking a child, unless its parent was retried meanwhile and waits for it again."""
        await self._store.verb("child_ended", parent, child=child_id)

    async def _look(self, parent: str, child_id: str) -> None:
        """Start a child, or see whether it has ended."""
        keys = self._store.locate(parent)
        child = await self._child(keys, child_id)
        status = await self._status(parent)
        if child is None or child[b"st"].decode() in END_STATUSES:
            await self._look_no_more(parent, child_id)
        elif status != "running" and child[b"pe"] != b"leave":
            await self._part(parent)
            await self._look_no_more(parent, child_id)
        elif child[b"st"] == b"unwanted":
            await self._end(parent, child_id, child)
        elif child[b"st"] == b"starting":
            await self._start(parent, child_id, child)
        else:
            await self._look_at_running(parent, child_id, child)

    async def _look_at_running(self, parent: str, child_id: str, child: dict[bytes, Any]) -> None:
        found = await self._store.command(
            "look at a child run", "HMGET", self._store.locate(child_id)["run"], "status", "ending", "parent"
        )
        status = found[0] and found[0].decode()
        if status is not None and found[2] != parent.encode() and b"ke" not in child:
            error = f"Run {child_id!r} exists, and is no child of run {parent!r}. Choose another id."
            await self._tell(parent, child_id, "failed", _not_begun("RunExists", error), unbegun=True)
            return
        if status is None and (b"sp" in child or b"sb" in child):
            await self._start(parent, child_id, child)
        elif status is None:
            error = f"Run {child_id!r} is not in Redis any more."
            await self._tell(parent, child_id, "failed", _not_begun("RunNotFound", error))
        elif status not in END_STATUSES:
            # A child that a fork shares with its origin reports its end to the origin only: the fork checks often.
            settings = self._store.settings
            pause_seconds = settings.sweep_seconds if b"ke" in child else settings.redispatch_max_seconds
            await self._look_later(parent, child_id, pause_seconds)
        elif child[b"st"] == b"reviving" and status != "completed" and b"ke" not in child:
            try:
                await self._lives.retry(child_id)
            except NotRetried as error:
                if error.reason in ("running", "completed"):  # another process has retried it: this end is out of date
                    await self._look(parent, child_id)
                else:
                    await self._tell(parent, child_id, status, found[1], is_final=True)
            else:
                await self._look_soon(parent, child_id)
        else:
            await self._tell(parent, child_id, status, found[1])

    # -- ends ------------------------------------------------------------------------------------------------------

    async def _report(self, child_id: str) -> None:
        """Report a child's end to its parent."""
        found = await self._store.command(
            "read a child's end", "HMGET", self._store.locate(child_id)["run"], "parent", "status", "ending"
        )
        parent, status, event = found
        if parent is not None and status.decode() in END_STATUSES:
            await self._tell(parent.decode(), child_id, status.decode(), event)
        await self._forget(child_id, f"ended|{child_id}")

    async def _tell(
        self, parent: str, child_id: str, status: str, event: bytes, *, unbegun: bool = False, is_final: bool = False
    ) -> None:
        # A child that was ended because of its parent is retried if the parent waits for it, unless that was tried.
        parted = not is_final and event is not None and status == "cancelled" and _BY_PARENT in event
        about = {"unbegun": unbegun or None, "parted": parted or None}
        reply = await self._store.verb("child_ended", parent, child=child_id, status=status, event=event, **about)
        if reply[0] not in (b"told", b"again"):
            return
        await self._lives.follow(parent, self._store.applied(parent, reply[1]))

    async def _part(self, parent: str) -> None:
        """Cancel the children of an ended run, except those that are to be left running."""
        if await self._status(parent) != "running":
            async for child_id, child in child_records(self._store, parent):
                if child[b"st"].decode() not in END_STATUSES and await self._status(parent) == "running":
                    break  # it was retried meanwhile: its children continue with it
                await self._end(parent, child_id, child)
        await self._forget(parent, f"parted|{parent}")

    async def _end(self, parent: str, child_id: str, child: dict[bytes, Any]) -> None:
        status = child[b"st"].decode()
        if status in (*END_STATUSES, "held") or child[b"pe"] == b"leave":
            return
        if b"sp" in child or b"sb" in child:  # another process may be starting it: its start must find the child ended
            await self._start(parent, child_id, child)
        if not await is_of_another(self._store, parent, child_id):  # the id chosen for it may have been taken
            with suppress(RunNotFound):
                await self._lives.finish(child_id, "cancelled", ending(CANCELLED, by_parent=True))
        await self._look_no_more(parent, child_id)

    async def _status(self, run_id: str) -> str | None:
        found = await self._store.command("read a run", "HGET", self._store.locate(run_id)["run"], "status")
        return None if found is None else found.decode()

    async def _forget(self, run_id: str, member: str) -> None:
        key = self._store.locate(run_id)["outbox"]
        await self._store.command("clear the outbox", "ZREM", key, member, name="settled")


def _not_begun(error: str, text: str) -> bytes:
    event = ending(
        FAILED,
        step_name="",
        exception={"exception_type": f"umbel.{error}", "exception_message": text},
        attempts=None,
        elapsed_seconds=None,
    )
    return event.to_bytes()

"""RunQuota: at most so many runs of a workflow go on at once, in the whole deployment, whoever started them.

    start ── unbegun ──> admit ── has a place ──> begin ── … ──> its end: leaving ──> leave ──> the next one's begin
    (run's shard)        (workflow's shard)       (run's shard)  (run's shard)        (workflow's shard)

A run lives in the shard of its id, the places of a workflow in the shard of its name, so no script sees both. Each
arrow is a script of its own that may be repeated, by anybody, and what is to come next is on record before it comes:

    dies after   on record                                              the sweep
    start        `unbegun`: a run that waits for its place              asks for its place (again)
    admit        `places`: a run that has a place and has not begun     begins it
    its end      `leaving`: a place that is to be given back            gives it back
    leave        `places` again, of those who were admitted by it       begins them

What asks for a place is a *ticket*: run id and the instant of its start, another one for each life of a run that is
revived. Only a ticket that has a place can begin, only the end of that life gives it back, and it is given back before
it is given on: never do more go on than the limit says. The line is in the order of the starts. A ticket whose run has
ended meanwhile may still get a place, by a caller that was slow; its `begin` is refused, and it leaves at once.

The limit is what the newest client said. Runs that were started without a limit are neither counted nor held up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..model.commands import Fill
from ..model.errors import RunNotFound, UmbelError
from ..model.plan import Plan
from ..store.blocking import BlockingStore as Store
from ..store.failpoints import failpoint
from ..store.replies import Dispatch
from ..store.scripts import unpack

logger = logging.getLogger("umbel.places")


@dataclass(frozen=True, slots=True)
class Admission:
    """What one life of a run asks for a place with.

    Attributes:
        workflow: The workflow whose place it is.
        run_id: The run.
        since: When it was started or revived, in µs of Redis time.
    """

    workflow: str
    run_id: str
    since: int

    @property
    def member(self) -> str:
        """Its spelling among the tickets of its workflow."""
        return f"{self.run_id}|{self.since}"

    @staticmethod
    def of(workflow: str, member: str) -> Admission:
        """The inverse of `member`."""
        run_id, _, since = member.partition("|")
        return Admission(workflow, run_id, int(since))

    @property
    def leaving(self) -> str:
        """Its spelling among the places that are to be given back."""
        return f"{self.member}|{self.workflow}"

    @staticmethod
    def of_leaving(text: str) -> Admission:
        """The inverse of `leaving`."""
        run_id, since, workflow = text.split("|", 2)
        return Admission(workflow, run_id, int(since))


class RunQuota:
    """Gives runs of limited workflows their places. *Promise:* every method may be repeated, raced and broken off."""

    def __init__(self, store: Store, dispatch: Callable[[Plan, Sequence[Dispatch]], None]) -> None:
        """Args:
        store: The runs.
        dispatch: Sends the messages for what begins.
        """
        self.store, self.dispatch = store, dispatch

    # -- at once ---------------------------------------------------------------------------------------------------

    def take(self, run_id: str) -> None:
        """A run was started or revived: let it begin if there is a place for it. Never raises."""
        self._now(partial(self.ask, run_id))

    def pass_on(self, leaving: str | None) -> None:
        """A run has ended: let the next one begin. Never raises.

        Args:
            leaving: As its end was answered; None when it had no place.
        """
        if leaving is not None:
            self._now(partial(self.give_back, Admission.of_leaving(leaving)))

    def pass_on_of(self, run_id: str) -> None:
        """The same for a run that was ended from outside its steps."""
        self._now(partial(self._settle, run_id))

    def _now(self, act: Callable[[], object]) -> None:
        """What concerns the place must not fail the start or the end that it follows: those are in Redis already."""
        try:
            act()
        except UmbelError as error:
            logger.warning("a place is left to the sweep: %s", error, extra={"action": "admission_postponed"})
        except Exception:
            logger.exception("a place is left to the sweep", extra={"action": "admission_postponed"})

    def _settle(self, run_id: str) -> None:
        key = self.store.locate(run_id)["run"]
        names = ["ticket", "workflow"]
        member, workflow = self.store.read("read a run's ticket", lambda: self.store.client.hmget(key, names))
        if member is not None:
            self.give_back(Admission.of(workflow.decode(), member.decode()))

    # -- steps of the way, for the sweep ---------------------------------------------------------------------------

    def ask(self, run_id: str) -> Admission | None:
        """Ask for the place of a run that has not begun, and begin whoever has got one by that.

        Returns:
            The run's ticket; None when there is no such run, or it does not wait.
        """
        keys, client = self.store.locate(run_id), self.store.client
        names = ["status", "workflow", "ticket", "limit", "created_at", "unbegun"]
        status, workflow, member, limit, created_at, unbegun = self.store.read(
            "read a run's ticket", lambda: client.hmget(keys["run"], names)
        )
        if status is None:
            self.store.read("forget a run", lambda: client.zrem(keys["awaiting_admission"], run_id))
        if unbegun is None:
            return None
        ticket = Admission.of(workflow.decode(), member.decode())
        self._begin_all(self.admit(ticket, int(limit), said_at=int(created_at)))
        return ticket

    def look_at(self, run_id: str, now: int) -> None:
        """A run has been waiting for long: ask again, and look less often the longer it waits.

        Args:
            run_id: The run.
            now: In ms of Redis time.
        """
        ticket = self.ask(run_id)
        if ticket is not None:
            settings = self.store.settings
            age = now - ticket.since // 1000
            pause = min(max(age, settings.redispatch_seconds * 1000), settings.redispatch_max_seconds * 1000)
            self._look_later(self.store.locate(run_id)["unbegun"], run_id, now + round(pause))

    def look_at_holder(self, ticket: Admission, now: int) -> None:
        """A ticket has had a place for a while: it may have to begin, or be over without anybody having said so."""
        key = self.store.locate(ticket.run_id)["run"]
        names = ["status", "ticket", "unbegun"]
        status, member, unbegun = self.store.client.hmget(key, names)
        if status != b"running" or member != ticket.member.encode():
            self.give_back(ticket)
        elif unbegun is not None:
            self._begin_all([ticket])
        else:
            later = now + round(self.store.settings.redispatch_max_seconds * 1000)
            shard, name = self.store.keys.shard_of(ticket.workflow), f"admitted:{ticket.workflow}"
            self._look_later(self.store.keys.in_shard(shard, name), ticket.member, later)

    def _look_later(self, key: str, member: str, at: int) -> None:
        """Put off the next look; one that is put off further already, or is not wanted any more, stays as it is."""
        failpoint("look_later", "before")
        self.store.client.zadd(key, {member: at}, xx=True, gt=True)
        failpoint("look_later", "after")

    def give_back(self, ticket: Admission) -> None:
        """Give back a ticket's place, or leave the line, and begin whoever has got a place by that."""
        self._begin_all(self.leave(ticket))
        key = self.store.locate(ticket.run_id)["leaving"]
        failpoint("give_back", "before")
        self.store.read("give back a place", lambda: self.store.client.zrem(key, ticket.leaving))
        failpoint("give_back", "after")

    def _begin_all(self, admitted: list[Admission]) -> None:
        waiting = deque(admitted)
        while waiting:
            ticket = waiting.popleft()
            if not self.begin(ticket):
                waiting.extend(self.leave(ticket))

    # -- verbs, one script each ------------------------------------------------------------------------------------

    def admit(self, ticket: Admission, limit: int, *, said_at: int) -> list[Admission]:
        """Get a place for the ticket, or a place in the line.

        Args:
            ticket: Who asks.
            limit: How many runs of the workflow may go on at once.
            said_at: When that was said; the newest counts.

        Returns:
            Who has a place by that and is to begin; the ticket itself also when it had its place before.
        """
        return self._change("admit", ticket, since=ticket.since, limit=limit, said_at=said_at)

    def leave(self, ticket: Admission) -> list[Admission]:
        """Take the ticket's place, or its place in the line, away; returns who has got a place by that."""
        return self._change("leave", ticket)

    def begin(self, ticket: Admission) -> bool:
        """Begin a run that has its place, and ring for it; False when that life of it is over."""
        try:
            plan = self.store.plan_of(ticket.run_id)
        except RunNotFound:
            return False
        fills = [Fill(step).wire() for step in plan.steps]
        status, *rest = self.store.verb("begin", ticket.run_id, ticket=ticket.member, body=fills)
        if status != b"begun":
            return False
        self.dispatch(plan, self.store.applied(ticket.run_id, rest[0]).dispatches)
        return True

    def _change(self, verb: str, ticket: Admission, **args: int) -> list[Admission]:
        shard = self.store.keys.shard_of(ticket.workflow)
        names = {name: f"{name}:{ticket.workflow}" for name in ("admitted", "waiting")}
        look = round(self.store.settings.redispatch_seconds * 1000)
        reply = self.store.shard_verb(
            verb, shard, names, workflow=ticket.workflow, ticket=ticket.member, look=look, **args
        )
        return [Admission.of(ticket.workflow, member) for member in unpack(reply[1])]

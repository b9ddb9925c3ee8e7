"""Verbs that keep runs going: leases, losses, timers, redispatch, parked work. One script per run and verb.

Used by the heartbeat of every execution process and by the sweep; no process is special, and each verb may be
repeated or raced without harm.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..model.errors import StoreUnavailable
from ..model.suspicion import MOST
from ..model.work_item import Held, Work
from ..store.replies import Applied
from ..store.scripts import unpack
from ..store.verbs import Store

#: The shard whose counters have the histograms of processes: readers add up all shards.
_COUNTING_SHARD = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """What a process has counted for monitors.

    Attributes:
        batch: Identifies these counts when they are sent again.
        fields: Field of the counters -> how much to add.
    """

    batch: str
    fields: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Pulse:
    """The result of a heartbeat.

    Attributes:
        fenced: The owner was declared lost; it must cancel all it runs and begin a new incarnation.
        lost: Claims that the owner believed it held and does not hold.
        handed_back: Surplus claims, which were released: by run, what is to be dispatched.
        unreached: Why leases in some shards were not renewed, where those in others were.
        counted: Whether counts were sent and have arrived.
    """

    fenced: bool
    lost: frozenset[Held]
    handed_back: tuple[tuple[str, Applied], ...] = ()
    unreached: StoreUnavailable | None = None
    counted: bool = False


class Leases:
    """Lease and sweep verbs over a `Store`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.settings = store.settings

    async def heartbeat(
        self,
        owner: str,
        held: Iterable[Held],
        *,
        shards: Iterable[int] = (),
        is_held: Callable[[Held], bool] = lambda _: False,
        counts: Counts | None = None,
    ) -> Pulse:
        """Renew the lease of everything `owner` holds; one command per shard concerned.

        What Redis believes it holds beyond `held` (a claim whose answer never arrived, or that was given up without
        a commit) is handed back.

        Args:
            owner: The execution process.
            held: All that it believes it holds, claims in progress included.
            shards: Shards to visit although nothing is held there, because something was until recently. A claim that
                was given up there would keep a lease that nobody renews, and the owner would be declared dead.
            is_held: Called before a claim is handed back: one made since `held` was listed is not surplus.
            counts: Added to the counters of the deployment, once, however often they are sent.

        Raises:
            StoreUnavailable: No shard answered.
        """
        by_shard: dict[int, list[Held]] = defaultdict(list, {shard: [] for shard in shards})
        for each in held:
            by_shard[self.store.locate(each.run_id).shard].append(each)
        if counts is not None:
            by_shard[_COUNTING_SHARD]  # creates the entry, so that it is visited, too
        # Concurrently: the shards of an unreachable node must not delay the renewal of others.
        replies = await asyncio.gather(
            *(
                self._beat(shard, owner, mine, counts if shard == _COUNTING_SHARD else None)
                for shard, mine in by_shard.items()
            ),
            return_exceptions=True,
        )
        lost: set[Held] = set()
        handed_back: list[tuple[str, Applied]] = []
        fenced, unreached, renewed, counted = False, None, 0, False
        for shard, reply in zip(by_shard, replies, strict=True):
            if isinstance(reply, StoreUnavailable):
                unreached = reply
                continue
            if isinstance(reply, BaseException):
                raise reply
            renewed += 1
            counted = counted or (counts is not None and shard == _COUNTING_SHARD)
            if reply[0] == b"fenced":
                fenced = True
                continue
            answer = unpack(reply[1])
            lost.update(Held.parse(member) for member in answer["lost"] or ())
            beyond = [each for each in map(Held.parse, answer["beyond"] or ()) if not is_held(each)]
            if beyond:
                handed_back += await self.hand_back(owner, beyond, charge=False)
        if unreached is not None and not renewed:
            raise unreached
        return Pulse(fenced, frozenset(lost), tuple(handed_back), unreached, counted)

    async def _beat(self, shard: int, owner: str, held: Iterable[Held], counts: Counts | None) -> list[Any]:
        lease = round(self.settings.lease_seconds * 1000)
        members = [each.member for each in held]
        return await self.store.shard_verb(
            "heartbeat",
            shard,
            {"owner": f"owner:{owner}", "counted": f"counted:{owner}"},
            owner=owner,
            lease=lease,
            held=members,
            batch=counts and counts.batch,
            counts=counts and dict(counts.fields),
        )

    async def fence(self, owner: str, shard: int, *, known_dead: bool = False) -> list[Held]:
        """Declare an owner lost and return what it held; empty if nothing is left or its lease still runs."""
        names = {"owner": f"owner:{owner}"}
        reply = await self.store.shard_verb("fence", shard, names, owner=owner, known_dead=known_dead or None)
        return [Held.parse(member) for member in unpack(reply[1])] if reply[0] == b"held" else []

    async def hand_back(
        self, owner: str, held: Sequence[Held], *, charge: bool, suspicion: int = MOST
    ) -> list[tuple[str, Applied]]:
        """Redispatch the work that `owner` will not finish; work that has moved on meanwhile is left alone.

        Args:
            owner: The execution process.
            held: What it held.
            charge: The owner died: count a loss of each item, and raise its suspicion by one.
            suspicion: The level up to which suspicion rises.
        """
        by_run: dict[str, list[Held]] = defaultdict(list)
        for each in held:
            by_run[each.run_id].append(each)
        done: list[tuple[str, Applied]] = []
        for run_id, items in by_run.items():
            reply = await self.store.verb(
                "lose",
                run_id,
                {"owner": f"owner:{owner}"},
                owner=owner,
                charge=suspicion if charge else None,
                items=[{"w": i.work_id, "c": i.claim_id, "member": i.member} for i in items],
            )
            done.append((run_id, self.store.applied(run_id, reply[1])))
        return done

    async def wake(self, run_id: str, timer: str, kind: str, work_id: str, waiter_id: str = "") -> Applied | None:
        """Fire a due timer of a work item. None if it has already fired or was postponed."""
        verb = "deadline" if kind == "deadline" else "wake"
        reply = await self.store.verb(verb, run_id, {}, timer=timer, kind=kind, w=work_id, wt=waiter_id)
        return self.store.applied(run_id, reply[1]) if reply[0] == b"woken" else None

    async def redispatch(self, run_id: str, items: Sequence[tuple[str, str]]) -> Applied:
        """Redispatch unclaimed work, with back-off; items are (work id, queue/priority)."""
        reply = await self.store.verb(
            "redispatch",
            run_id,
            {},
            items=[{"w": work_id, "q": line} for work_id, line in items],
            redispatch_max=round(self.settings.redispatch_max_seconds * 1000),
        )
        return self.store.applied(run_id, reply[1])

    async def park(
        self,
        run_id: str,
        work_id: str,
        workflow: str,
        step: str,
        work: Work | None = None,
        *,
        lacks: str | None = None,
    ) -> bool:
        """Set aside work whose code this worker lacks. It is not failed: a worker that has the code resumes it.

        Args:
            run_id: The run.
            work_id: The work item.
            workflow: Its workflow's name.
            step: Its step's name.
            work: The claim, if the work was claimed before the code was found missing.
            lacks: If the step's code exists: what else is missing, such as the class of one of its events.
        """
        names = {"owner": f"owner:{work.owner if work else ''}"}
        member = work.member if work else None
        claim_id = work.claim_id if work else None
        name = f"{workflow}|{step}"
        reply = await self.store.verb(
            "park", run_id, names, w=work_id, name=name, lacks=lacks, c=claim_id, member=member
        )
        return bool(reply[0] == b"parked")

    async def unpark(
        self, workflow: str, steps: Iterable[str], knows: Callable[[str], bool] = lambda _: True
    ) -> list[tuple[str, Applied]]:
        """Resume the work that is parked for these steps; what lacked something else only if `knows` accepts that."""
        wanted = set(steps)
        done: list[tuple[str, Applied]] = []
        for shard in range(self.settings.shards):
            key = self.store.keys.in_shard(shard, "parked")
            by_run: dict[str, list[dict[str, str]]] = defaultdict(list)
            async for member in self._parked(key, workflow):
                _, name, run_id, work_id = member.split("|", 3)
                step, _, lacks = name.partition("@")
                if step in wanted and (not lacks or knows(lacks)):
                    by_run[run_id].append({"w": work_id, "member": member})
            for run_id, items in by_run.items():
                reply = await self.store.verb("unpark", run_id, {}, items=items)
                done.append((run_id, self.store.applied(run_id, reply[1])))
        return done

    async def retire(self, run_id: str) -> None:
        """Give the dynamic keys of an ended run the run's own lifetime."""
        keys = self.store.locate(run_id)
        found = await self.store.command("list a run's keys", "SMEMBERS", keys["extra"])
        names = {name.decode().removeprefix(keys.stem): name.decode() for name in found}
        await self.store.verb("retire", run_id, {}, extra=names)

    async def _parked(self, key: str, workflow: str) -> AsyncIterator[str]:
        cursor = b"0"
        while True:
            cursor, found = await self.store.command(
                "look for parked work", "ZSCAN", key, cursor, "MATCH", f"{_literal(workflow)}|*"
            )
            for member in found[::2]:
                yield member.decode()
            if cursor == b"0":
                return


def _literal(text: str) -> str:
    """Text as a glob pattern that matches only itself."""
    return "".join(f"\\{c}" if c in "*?[]\\^-" else c for c in text)

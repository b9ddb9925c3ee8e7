"""What is due in a deployment, found with one script for all shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..store.asks import ScriptCall
from ..store.scripts import load, pack, unpack
from ..store.verbs import Store

#: At most so much of each kind is due per shard and look; the rest is in the next one.
BATCH = 64

#: The same for runs that have waited for long. Most are in order, and what is urgent must not wait for that.
LOOKS = 50

#: In addition, this many of the timers that became due last.
NEWEST = 8

#: In the order of `look.lua`.
KINDS = (
    "parked",
    "leases",
    "timers",
    "unclaimed",
    "retire",
    "releasing",
    "awaiting_admission",
    "outbox",
    "lines",
    "limits",
)

#: The most shards that one script looks at: Lua can pass only a limited number of arguments to a command.
_SHARDS = 128

#: Ended runs leave the indexes once their keys have expired; so often, in ms, that is looked after.
_TRIM_MS = 300_000

#: How many a shard has of one kind that stay where they are although they are due, because they could not be settled.
PassedOver = Mapping[tuple[str, int], int]

_NO_TURNS: Mapping[int, int] = {}


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to do.

    Attributes:
        now: The time of Redis, in ms.
        owners: By shard, the owners of all leases.
        due: By kind and shard, what is due; only where it is this process's turn.
        turns: The instants of its turns, each by the first of the shards that it is in.
        trims: Whether it is time to trim the indexes of runs.
        parked: Whether work waits for a worker that has its code.
    """

    now: int
    owners: Mapping[int, Sequence[str]]
    due: Mapping[str, Mapping[int, Sequence[str]]]
    turns: Mapping[int, int]
    trims: bool
    parked: bool


def looked_at_together(store: Store) -> list[range]:
    """All shards, in groups whose keys one command may have."""
    size = _SHARDS if store.connection.spans_shards else 1
    shards = range(store.settings.shards)
    return [shards[first : first + size] for first in range(0, len(shards), size)]


async def look(
    store: Store, passed_over: PassedOver, *, everything: bool = False, turns: Mapping[int, int] = _NO_TURNS
) -> Look:
    """Look at all shards that are reached, and take the turn to sweep them if nobody has within the period.

    Args:
        store: The runs.
        passed_over: By kind and shard, how much to look behind.
        everything: Take the turn in any case.
        turns: As of the caller's last look, whose turns it goes on with unless another process has had one since.
    """
    calls = [_call(store, shards, passed_over, everything, turns) for shards in looked_at_together(store)]
    answers: list[Look] = [each for each in await store.reached("look for what is due", *calls) if each is not None]
    owners: dict[int, Sequence[str]] = {}
    parked = False
    due: defaultdict[str, dict[int, Sequence[str]]] = defaultdict(dict)
    for answer in answers:
        owners |= answer.owners
        parked = parked or answer.parked
        for kind, found in answer.due.items():
            due[kind] |= found
    taken = {first: at for answer in answers for first, at in answer.turns.items()}
    return Look(answers[0].now, owners, due, taken, any(answer.trims for answer in answers), parked)


def _call(
    store: Store, shards: range, passed_over: PassedOver, everything: bool, turns: Mapping[int, int]
) -> ScriptCall[Look]:
    names = ("swept_at", *KINDS)
    keys = [store.keys.in_shard(shard, name) for name in names for shard in shards]
    count = len(shards)

    def shard_at(place: int) -> int:
        return shards[(place - 1) % count]

    def read(reply: list[bytes]) -> Look:
        now, swept_at, parked, owners, due = unpack(reply[1])
        found: defaultdict[str, dict[int, Sequence[str]]] = defaultdict(dict)
        for place, *members in due:
            found[names[(place - 1) // count]][shard_at(place)] = members
        is_turn = swept_at is not False
        trims = is_turn and (everything or now // _TRIM_MS != swept_at // _TRIM_MS)
        turn = {shards[0]: now} if is_turn else _NO_TURNS
        return Look(now, {shard_at(place): members for place, *members in owners}, found, turn, trims, parked)

    settings = store.settings
    about = {
        "n": count,
        "x": list(range(1, len(keys) + 1)),
        "period": max(1, round(settings.sweep_seconds * 900)),
        "everything": everything or None,
        "turn": turns.get(shards[0]),
        "batch": BATCH,
        "few": LOOKS,
        "newest": NEWEST,
        "lease": store.lease_ms,
        "redispatch": round(settings.redispatch_seconds * 1000),
        "at": {
            1 + names.index(kind) * count + shard - shards[0]: passed
            for (kind, shard), passed in passed_over.items()
            if kind in KINDS and shard in shards
        },
    }
    args = pack({name: value for name, value in about.items() if value is not None})
    return ScriptCall("look for what is due", load("look"), keys, [args], read)

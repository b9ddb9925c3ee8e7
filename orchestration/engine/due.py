"""What is due in a deployment, found with one script for all shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..store.asks import ScriptCall
from ..store.scripts import load, pack, unpack
from ..store.verbs import Store

#: Maximum number of due entries of each kind that a look returns per shard; the rest is left to the next look.
BATCH = 64

#: The same for runs that have waited for long. Most of them need nothing, and urgent entries must not wait for them.
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

#: Maximum number of shards that one script looks at: Lua can pass only a limited number of arguments to a command.
_SHARDS = 128

#: How often, in ms, ended runs whose keys have expired are removed from the indexes.
_TRIM_MS = 300_000

#: Kind and shard -> how many due entries to skip: they could not be settled, and stay where they are.
PassedOver = Mapping[tuple[str, int], int]

_NO_TURNS: Mapping[int, int] = {}


@dataclass(frozen=True, slots=True)
class Look:
    """What is due.

    Attributes:
        now: Redis time in ms.
        owners: By shard, the owners of all leases.
        due: By kind and shard, what is due; only where it is this process's turn.
        turns: First shard of a group -> when this process took the turn to sweep that group.
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
    """All shards, in groups that one command may cover."""
    size = _SHARDS if store.connection.spans_shards else 1
    shards = range(store.settings.shards)
    return [shards[first : first + size] for first in range(0, len(shards), size)]


async def look(
    store: Store, passed_over: PassedOver, *, everything: bool = False, turns: Mapping[int, int] = _NO_TURNS
) -> Look:
    """Look at all reachable shards, and take the turn to sweep them if no process has taken it within the period.

    Args:
        store: The runs.
        passed_over: How many due entries to skip, by kind and shard.
        everything: Take the turn in any case.
        turns: Those of the caller's last look; it keeps them unless another process has had a turn since.
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

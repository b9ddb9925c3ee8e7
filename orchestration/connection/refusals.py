"""What a Redis that answers, but refuses, lacks: in words, with what helps. All of it may end without a change."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why Redis refuses commands for a while.

    Attributes:
        why: Its state, to follow "Redis": `is full: …`.
        remedy: What to do, as an instruction without a full stop.
    """

    why: str
    remedy: str


#: The first word of an error reply -> what it means.
_REFUSALS = {
    "OOM": Refusal(
        "is full: its memory has reached maxmemory, so it takes no writes",
        "raise maxmemory, or make room with `umbel delete` or a lower UMBEL_RETENTION_SECONDS",
    ),
    "READONLY": Refusal(
        "is a replica, which takes no writes",
        "let UMBEL_REDIS_URL name the primary, or wait if it is being failed over",
    ),
    "MISCONF": Refusal(
        "cannot write to its disk, so it takes no writes",
        "make room on that disk, or let Redis write to its folder; its log says what failed",
    ),
    "NOREPLICAS": Refusal(
        "has fewer replicas than min-replicas-to-write demands, so it takes no writes",
        "start its replicas, or find out why they lag behind",
    ),
    "BUSY": Refusal(
        "executes a script of another client that does not end",
        "end that script with `redis-cli SCRIPT KILL` or `FUNCTION KILL`",
    ),
    "LOADING": Refusal("is loading its data", "wait until it is done"),
    "CLUSTERDOWN": Refusal(
        "is a cluster in which the primary of some slots is down",
        "start that primary or a replica of it; `redis-cli cluster nodes` names it",
    ),
    "MASTERDOWN": Refusal(
        "is a replica that has lost its primary",
        "start the primary, or let UMBEL_REDIS_URL name another",
    ),
}

#: redis-py's classes for replies whose first word it removes.
_CLASSES = ((OutOfMemoryError, "OOM"), (ReadOnlyError, "READONLY"), (BusyLoadingError, "LOADING"))


def refusal_in(error: BaseException | None) -> Refusal | None:
    """What an error reply says of Redis's state, also if the error was raised because of such a reply; else None."""
    while error is not None:
        word = str(error).partition(" ")[0]
        found = _REFUSALS.get(word)
        if found is None:
            found = next((_REFUSALS[word] for kind, word in _CLASSES if isinstance(error, kind)), None)
        if found is not None:
            return found
        error = error.__cause__
    return None

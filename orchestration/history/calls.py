"""Journal entries as the calls that they record: function, arguments, body and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..connection.keys import DYNAMIC_KEYS
from ..model.errors import HistoryUnavailable
from ..store.journal import Entry
from ..store.replies import unpack_raw

#: Entry kind -> the function that wrote it, and its possible replies when it is applied. A kind that is not listed here
#: cannot be replayed.
FUNCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "start": ("start", ("started",)),
    "restore": ("restore", ("restored",)),
    "begin": ("begin", ("begun",)),
    "turn": ("turn", ("begun",)),
    "claim": ("claim", ("claimed",)),
    "commit": ("commit", ("committed",)),
    "flush": ("flush", ("flushed",)),
    "published": ("flush", ("flushed",)),
    "collect": ("collect", ("waiting", "complete")),
    "memo": ("memo", ("kept",)),
    "stage": ("stage", ("staged",)),
    "unstage": ("unstage", ("cleared",)),
    "state": ("state_write", ("written",)),
    "send": ("send", ("sent",)),
    "wake": ("wake", ("woken",)),
    "deadline": ("deadline", ("woken",)),
    "lost": ("lose", ("lost",)),
    "released": ("lose", ("lost",)),
    "redispatch": ("redispatch", ("redispatched",)),
    "parked": ("park", ("parked",)),
    "unpark": ("unpark", ("unparked",)),
    "end": ("finish", ("ended",)),
    "revived": ("revive", ("revived",)),
    "cancel": ("cancel", ("cancelled",)),
    "expire": ("expire", ("expired",)),
    "child": ("child_ended", ("told",)),
    "child_started": ("child_started", ("noted",)),
    "child_again": ("child_ended", ("again",)),
    "rewind": ("rewind", ("rewound",)),
    "retire": ("retire", ("retired",)),
}


@dataclass(frozen=True, slots=True)
class PastCall:
    """One call, in the form that `replay.lua` takes.

    Attributes:
        entry: The entry that recorded it.
        names: Logical names of the dynamic keys that it touches.
        wire: Verb, arguments, body and clock.
        answers: Its possible replies when it is applied.
    """

    entry: Entry
    names: frozenset[str]
    wire: dict[str, Any]
    answers: tuple[str, ...]


def past_call(entry: Entry) -> PastCall:
    """The call that an entry records.

    Raises:
        HistoryUnavailable: The entry lacks the call: an older release wrote it, or the journal keeps no values.
    """
    known = FUNCTIONS.get("turn" if b"turn" in entry.arguments else entry.kind)
    args = _commit(entry) if entry.kind == "commit" else dict(entry.arguments)
    if known is None or not args:
        raise HistoryUnavailable(
            f"Entry {entry.seq} of the journal ({entry.kind}) cannot be applied again: another release of "
            "umbel has written it, or one with history='summary'. No point after it can be rebuilt."
        )
    clock = args.pop(b"@")
    named = args.pop(b"x", None) or ()
    names = {name.decode() for name in named if name.decode().partition(":")[0] in DYNAMIC_KEYS}
    if entry.kind in ("flush", "published"):
        names.add(f"sent:{args[b'w'].decode()}")
        args[b"p"] = entry.about["p"]
    args.pop(b"xs", None)  # it was accepted
    wire = {"verb": known[0], "args": args, "clock": clock}
    if b"c" in entry.fields:
        wire["body"] = entry.fields[b"c"]
    return PastCall(entry, frozenset(names), wire, known[1])


def _commit(entry: Entry) -> dict[bytes, Any]:
    about = unpack_raw(entry.fields[b"d"])
    if b"n" not in about:
        return {}
    now = int(about[b"n"])
    args = {b"w": about[b"w"], b"owner": about[b"o"], b"@": [b"%d" % (now // 1000), b"%d" % (now % 1000 * 1000)]}
    named = ((b"carry", b"q"), (b"deny", b"deny"), (b"early", b"early"), (b"x", b"x"))
    return args | {arg: about[name] for arg, name in named if name in about}

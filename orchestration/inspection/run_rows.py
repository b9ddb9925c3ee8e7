"""What lists show of runs: their status, what they began with, why they failed; and whether a text occurs in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..model.commands import RUN_STATUSES
from ..model.envelope import FAILED, Envelope
from ..store.asks import ScriptCall
from ..store.scripts import load, pack, unpack
from ..store.verbs import Store
from .endings import exception_text

#: The statuses that lists show: those of runs, with running runs split by what they are doing.
SHOWN_STATUSES = ("running", "waiting", "queued", *RUN_STATUSES[1:])
#: How a running run may be shown.
RUNNING_AS = frozenset(("running", "waiting", "queued"))

#: Maximum bytes of an input or an error that are searched and shown; of a larger one, only its size is shown.
GLANCE_BYTES = 16 << 10
#: Runs that one script reads, which takes less than 5 ms.
GLANCED_AT_ONCE = 400
#: Maximum running runs that are read to count those that wait.
COUNTED = 20_000

_FIELDS = ("status", "workflow", "created_at", "ended_at", "parent", "unbegun", "queued", "live", "asleep")


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One row. Times are Redis time in ms.

    Attributes:
        is_asleep: It is running, and all its remaining work waits for an event.
        waits_for_admission: It was started but has not begun, because its workflow limits how many run at a time.
        is_queued: It was started but has not begun, because another run of its session is running.
        began_with: Its start event; None if it is larger than `GLANCE_BYTES` or not kept.
        input_bytes: Size of what it began with; 0 if that is not kept.
        error: What failed, in one line; None if it did not fail.
    """

    run_id: str
    workflow: str
    status: str
    created_at: int
    ended_at: int | None
    parent: str | None
    is_asleep: bool
    waits_for_admission: bool
    is_queued: bool
    began_with: Envelope | None = None
    input_bytes: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The condition for a row.

    Attributes:
        workflows: Names; empty for any.
        shown: See `SHOWN_STATUSES`; empty for any.
        search: Text that must occur in its id, the last part of its workflow's name, its input or its error.
        named: Workflows whose displayed name contains the text.
    """

    workflows: Collection[str]
    shown: Collection[str]
    search: str
    named: Collection[str]

    @property
    def is_anything(self) -> bool:
        """Whether the status indexes decide alone, so that no run has to be read."""
        return not (self.workflows or self.search or RUNNING_AS & set(self.shown) not in (set(), RUNNING_AS))

    def fits(self, run_id: str, workflow: str, shown: str, *, is_found: bool) -> bool:
        """Whether a run meets the condition.

        Args:
            run_id: Its id.
            workflow: Its workflow's name; empty if it was deleted meanwhile.
            shown: How it is shown.
            is_found: Whether its input or its error contains the text.
        """
        if (self.workflows and workflow not in self.workflows) or (self.shown and shown not in self.shown):
            return False
        if not self.search or is_found or workflow in self.named:
            return True
        return self.search in run_id.casefold() or self.search in workflow.rpartition(".")[2].casefold()


async def fitting(store: Store, wanted: Wanted, runs: dict[int, list[str]]) -> set[str]:
    """Which of these runs, by shard, meet the condition. One round trip."""
    asked = [(shard, some) for shard, each in runs.items() for some in _in_parts(each)]
    calls = (_glances(store, shard, some, find=wanted.search) for shard, some in asked)
    answers = await store.batch("read runs", *calls)
    return {
        run_id
        for (_, some), flat in zip(asked, answers, strict=True)
        for run_id, workflow, shown, found in zip(some, flat[::3], flat[1::3], flat[2::3], strict=True)
        if wanted.fits(run_id, workflow.decode(), shown.decode(), is_found=bool(found))
    }


async def waiting_runs(store: Store) -> int | None:
    """How many runs wait for an event; None if more than `COUNTED` are running."""
    shards = range(store.settings.shards)
    indexes = [store.keys.in_shard(shard, "runs:running") for shard in shards]
    if sum(await store.batch("count runs", *(("ZCARD", key) for key in indexes))) > COUNTED:
        return None
    found = await store.batch("list runs", *(("ZRANGE", key, 0, -1) for key in indexes))
    asked = [
        _glances(store, shard, some)
        for shard, ids in zip(shards, found, strict=True)
        for some in _in_parts([run_id.decode() for run_id in ids])
    ]
    answers: list[list[bytes]] = await store.batch("read runs", *asked)
    return sum(flat[1::3].count(b"waiting") for flat in answers)


async def read_rows(store: Store, run_ids: Sequence[str], *, with_input: bool = True) -> tuple[ListedRun, ...]:
    """The rows of these runs, without deleted ones; with what they began with and why they failed, if wanted."""
    asked = [("HMGET", store.locate(run_id)["run"], *_FIELDS) for run_id in run_ids]
    records = await store.batch("read runs", *asked)
    glances: Sequence[Sequence[bytes]] = [(b"", b"", b"", b"", b"0", b"")] * len(run_ids)
    if with_input:
        calls = (_glances(store, store.locate(run_id).shard, [run_id], whole=True) for run_id in run_ids)
        glances = await store.batch("read runs", *calls)
    rows = zip(run_ids, records, glances, strict=True)
    return tuple(_row(run_id, raw, glance) for run_id, raw, glance in rows if raw[0] is not None)


def _in_parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[at : at + GLANCED_AT_ONCE] for at in range(0, len(ids), GLANCED_AT_ONCE))


def _glances(
    store: Store, shard: int, run_ids: Sequence[str], *, find: str = "", whole: bool = False
) -> ScriptCall[list[bytes]]:
    keys = [key for run_id in run_ids for key in store.keys.glanced_at(shard, run_id)]
    args: dict[str, Any] = {"run": run_ids[0], "x": list(range(1, len(keys) + 1)), "most": GLANCE_BYTES}
    if find:
        args["find"] = _in_lower_case(find)
    if whole:
        args["whole"] = True
    return ScriptCall("read runs", load("glances"), keys, [pack(args)], lambda reply: reply)


def _in_lower_case(text: str) -> str:
    """Lower case as in Lua: ASCII only."""
    return "".join(each.lower() if each.isascii() else each for each in text)


def _row(run_id: str, raw: Sequence[bytes | None], glance: Sequence[bytes]) -> ListedRun:
    status, workflow, created_at, ended_at, parent, unbegun, queued, live, asleep = raw
    _, _, _, start, size, ending = glance
    return ListedRun(
        run_id=run_id,
        workflow=(workflow or b"").decode(),
        status=(status or b"").decode(),
        created_at=int(created_at or 0),
        ended_at=None if ended_at is None else int(ended_at),
        parent=None if parent is None else parent.decode(),
        is_asleep=status == b"running" and unbegun is None and int(live or 0) == int(asleep or 0),
        waits_for_admission=unbegun is not None and queued is None,
        is_queued=queued is not None,
        began_with=start_event(unpack(start)) if start else None,
        input_bytes=int(size),
        error=_error(ending) if status == b"failed" and ending else None,
    )


def start_event(commands: Iterable[dict[str, Any]]) -> Envelope | None:
    """The event in a run's first journal entry; None if the run began from a snapshot."""
    kept = (command["d"] for command in commands if command["o"] == "keep")
    return next((Envelope.from_bytes(data.encode("utf-8", "surrogateescape")) for data in kept), None)


def _error(ending: bytes) -> str | None:
    event = Envelope.from_bytes(ending)
    if event.type != FAILED:
        return None
    value = event.value()
    text = " ".join(exception_text(value.get("exception") or {}).split())
    return f"{value['step_name']}: {text}" if value.get("step_name") else text

"""Staging: large fan-outs are written to Redis in chunks, before the commit that makes them visible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..model.decide import Decision, Staged
from ..model.work_item import Work
from ..store.calls import staged_item
from ..store.replies import Refusal
from ..store.verbs import Store


async def stage(store: Store, work: Work, decision: Decision, chunk: int) -> Refusal | None:
    """Write a large fan-out to Redis in chunks. Invisible until the commit under the same token; repeatable."""
    for step, items in decision.staged.items():
        segment = items[0].member_of or f"{work.token}:{step}"
        chunks = list(_chunks(items, chunk))
        while chunks:
            reply = await store.verb(
                "stage",
                work.run_id,
                w=work.work_id,
                t=work.token,
                seg=segment,
                size=len(items),
                items=[staged_item(item) for item in chunks[0]],
                extra=_members(store, work, segment),
            )
            if reply[0] == b"resized":  # decided again with other waiters, it has another number
                await _clear(store, work, segment, reply[1], chunk)
            elif reply[0] == b"staged":
                del chunks[0]
            else:
                return Refusal(reply[0].decode())
    return None


def _chunks(items: Sequence[Staged], chunk: int) -> Iterator[Sequence[Staged]]:
    """Parts of fewer than 2 * `chunk` events: one item has at most `chunk`."""
    first = events = 0
    for at, item in enumerate(items):
        events += len(item.more) or 1
        if events >= chunk:
            yield items[first : at + 1]
            first, events = at + 1, 0
    if first < len(items):
        yield items[first:]


async def unstage(store: Store, work: Work, chunk: int) -> None:
    """Clear what earlier attempts have staged and not committed. Call it before anything else is staged."""
    for segment, size in work.segments.items():
        await _clear(store, work, segment, size, chunk)


async def _clear(store: Store, work: Work, segment: str, size: int, chunk: int) -> None:
    members = _members(store, work, segment)
    for start in range(1, 2 if members else size + 1, chunk):
        await store.verb(
            "unstage",
            work.run_id,
            w=work.work_id,
            t=work.token,
            seg=segment,
            first=start,
            to=min(start + chunk - 1, size),
            last=bool(members) or start + chunk > size or None,
            extra=members,
        )


def _members(store: Store, work: Work, segment: str) -> dict[str, str]:
    return {segment: store.locate(work.run_id)[segment]} if segment.startswith("members:") else {}

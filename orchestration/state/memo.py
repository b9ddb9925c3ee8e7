"""Values that a step has computed once, stored in Redis with its work item: see `ctx.once`."""

from __future__ import annotations

from typing import cast

from ..model.errors import RunClosed
from ..model.work_item import Work
from ..store.verbs import Store


async def recall(store: Store, work: Work, key: str) -> bytes | None:
    """The JSON that an earlier execution stored under `key`; None if none did."""
    collect = store.locate(work.run_id)["collect"]
    found = await store.command(f"read what run {work.run_id!r} keeps", "HGET", collect, _name(work, key))
    return cast("bytes | None", found)


async def keep(store: Store, work: Work, key: str, value: bytes) -> bytes:
    """Store JSON under `key` as long as the work item exists. Returns what is stored: the first value wins.

    *Promise:* one script, under the work item's token; it may be repeated.

    Raises:
        RunClosed: The step is obsolete.
    """
    status, *kept = await store.verb("memo", work.run_id, w=work.work_id, t=work.token, name=_name(work, key), d=value)
    if status != b"kept":
        raise RunClosed(f"Step {work.step!r} of run {work.run_id!r} is obsolete ({status.decode()}).", work.claim_id)
    return cast(bytes, kept[0])


def _name(work: Work, key: str) -> str:
    return f"once|{work.work_id}|{key}"

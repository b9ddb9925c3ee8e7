"""The recorded outcome of a fork's work item, taken instead of executing its step; see `history/forks/recorded.py`."""

from __future__ import annotations

from dataclasses import replace

from ...orchestration.history.forks.recorded import Recorded, digest, digest_of_events, digest_of_state, recorded_of
from ...orchestration.model.work_item import ForkedFrom, Outcome, Work
from ...orchestration.state.redis_hash import StateHash
from ...orchestration.store.verbs import Store
from .emissions import Emissions


async def with_recorded(store: Store, work: Work) -> tuple[Work, Recorded | None]:
    """The work with the answers that are recorded for its waits, and its recorded outcome, if its run takes these.

    *Promise:* only reads, and asks Redis nothing unless the run is such a fork.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    forked = ForkedFrom.of(work.options)
    if forked is None or not forked.recorded or work.branch:
        return work, None
    recorded, answers = await recorded_of(store, work.run_id, work.work_id)
    return (replace(work, answers={**answers, **work.answers}) if answers else work), recorded


async def take(recorded: Recorded, work: Work, emissions: Emissions, state: StateHash, store: Store) -> Outcome | None:
    """Do what the recorded attempt did before its end, and return what it came to; None if something has changed.

    *Promise:* what it wrote to the state is written only if the state is still as it was read; a crash between that and
    the commit has the step executed, which finds what was written, as after a crash of the step itself.

    Raises:
        RunClosed: The attempt is obsolete.
        StoreUnavailable: Redis did not answer.
    """
    gathered = work.members is not None
    events = await store.members(work) if gathered else work.bound
    if digest_of_events((digest(event.content()) for event in events), gathered=gathered) != recorded.events:
        return None
    # What is compared here, the step has read only if its recorded outcome is taken.
    reading = replace(state, _read=set())
    if isinstance(recorded.read, str):
        found = await reading.read_all()
        if digest_of_state({key: digest(value) for key, value in found.items()}) != recorded.read:
            return None
    else:
        found = {}
        for key, expected in recorded.read.items():
            value = await reading.read(key)
            if digest(value) != expected:
                return None
            found |= {} if value is None else {key: value}
    if recorded.change is not None:
        read = {*found} if isinstance(recorded.read, str) else {*recorded.read}
        touched = {*recorded.change.set, *recorded.change.delete} & read
        expect = {key: found.get(key) for key in touched} or None
        if await state.write(recorded.change, expect=expect) != "written":
            return None
    state.note_reads(reading)
    for event in recorded.published:
        emissions.publish(event)
    for event, target in recorded.sent:
        emissions.send(event, target)
    return recorded.outcome

"""Reuses a recorded outcome in a fork instead of executing the step; see `history/forks/recorded.py`."""

from __future__ import annotations

from dataclasses import replace

from ...orchestration.history.forks.recorded import Recorded, digest, digest_of_events, digest_of_state, recorded_of
from ...orchestration.model.work_item import ForkedFrom, Outcome, Work
from ...orchestration.state.redis_hash import StateHash
from ...orchestration.store.verbs import Store
from .emissions import Emissions


async def with_recorded(store: Store, work: Work) -> tuple[Work, Recorded | None]:
    """The work with the recorded answers to its waits, and its recorded outcome, if its run reuses recorded outcomes.

    *Promise:* only reads, and makes no request to Redis unless the run is a fork that reuses recorded outcomes.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    forked = ForkedFrom.of(work.options)
    if forked is None or not forked.recorded or work.branch:
        return work, None
    recorded, answers = await recorded_of(store, work.run_id, work.work_id)
    return (replace(work, answers={**answers, **work.answers}) if answers else work), recorded


async def take(recorded: Recorded, work: Work, emissions: Emissions, state: StateHash, store: Store) -> Outcome | None:
    """Repeat the recorded attempt's writes and emissions and return its outcome; None if its inputs have changed.

    *Promise:* the state is written only if the recorded attempt would still read the same. After a crash between that
    write and the commit the step is executed; it finds the writes, as after a crash of the step itself.

    Raises:
        RunClosed: The attempt is obsolete.
        StoreUnavailable: Redis did not answer.
    """
    gathered = work.members is not None
    events = await store.members(work) if gathered else work.bound
    if digest_of_events((digest(event.content()) for event in events), gathered=gathered) != recorded.events:
        return None
    # Reads made for the comparison count as the step's reads only if the recorded outcome is used.
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

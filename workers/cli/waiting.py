"""Why a run may not continue: no step accepts an event, or its workflow is paused."""

from __future__ import annotations

from collections import Counter

from ...orchestration.engine.pausing.workflows import covered_by, pauses
from ...orchestration.store.verbs import Store


async def unaccepted_events(store: Store, run_id: str) -> str | None:
    """A sentence that names a run's events that no step has accepted or waited for so far; None if there are none.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    kept = Counter(each.event.type.rpartition(".")[2] for each in (await store.inbox(run_id)).inbox)
    if not kept:
        return None
    events = ", ".join(name if number == 1 else f"{number} {name}" for name, number in kept.items())
    return f"No step accepts or waits for: {events}. Check what the steps return and send."


async def paused_because(store: Store, workflow: str) -> str | None:
    """A sentence that says that a workflow is paused, and how to resume it; None if it is not.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    paused = covered_by(workflow, (await pauses(store)).workflows)
    if paused is None:
        return None
    return f"No further step begins, as its workflow is paused. Resume it with: umbel resume --workflow {paused}"

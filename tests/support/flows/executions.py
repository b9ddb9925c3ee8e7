"""How often the parts of a run were executed."""

from __future__ import annotations

from collections import Counter
from typing import Any

#: How often each part was executed, by run.
EXECUTED: Counter[tuple[str, Any]] = Counter()


def executed(run_id: str) -> dict[Any, int]:
    return {what: n for (run, what), n in EXECUTED.items() if run == run_id}

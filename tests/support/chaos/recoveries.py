"""How long steps are idle after their process has died: from the death until their code begins again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from support.chaos.observed import RunSeen


def recovery_seconds(runs: Iterable[RunSeen], deaths: Mapping[int, float]) -> list[float]:
    """For each execution that a death interrupted, return the time until the step began again.

    Args:
        runs: The runs whose effects are examined.
        deaths: Process -> instant of its death, on the clock of the effects (`time.monotonic`).
    """
    found = []
    for run in runs:
        recorded = {(data["w"], data["t"]) for _, kind, data in run.journal if kind == "commit"}
        begun: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in run.effects:
            begun[line["work"]].append(line)
        for work_id, lines in begun.items():
            lines.sort(key=lambda line: line["at"])
            for number, line in enumerate(lines):
                died_at = deaths.get(line["pid"])
                token = int(line["token"].partition("-")[0])
                if died_at is None or line["at"] > died_at or (work_id, token) in recorded:
                    continue
                again = next((later for later in lines[number + 1 :] if later["token"] != line["token"]), None)
                if again is not None and again["at"] > died_at:
                    found.append(again["at"] - died_at)
    return found

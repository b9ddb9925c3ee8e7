"""Live progress of one run on standard error: for each step how many executions are running, done, failed, retried.

`Progress` counts and is independent of the terminal. The start of an execution comes from the run's stream, its outcome
from the run's journal: only the journal distinguishes a failure from a step that returned nothing.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...orchestration.inspection.timeline import Execution, duration, ended
from ...orchestration.model.envelope import STEP_STATE_CHANGED
from ...orchestration.store.journal import Entry, entries
from ...orchestration.store.verbs import Store
from ...orchestration.streams.reader import StreamEvent

#: Seconds between two updates on a terminal, and between two lines elsewhere.
LIVE_SECONDS, LINES_SECONDS = 0.1, 1.0
#: Width of the bar of a fan-out.
_BAR_COLUMNS = 14


@dataclass(slots=True)
class StepCount:
    """What has happened in one step so far; instants are of this process's monotonic clock."""

    started: int = 0
    over: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    lost: int = 0
    waiting: int = 0
    total: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def running(self) -> int:
        """Executions running now."""
        return max(0, self.started - self.over)

    @property
    def asleep(self) -> int:
        """Work items that wait for an event: the number of suspensions minus that of resumptions."""
        return max(0, self.waiting - max(0, self.started - self.total)) if self.total else 0

    @property
    def settled(self) -> int:
        """Work items of the step that have ended, of `total` so far."""
        return self.done + self.failed


@dataclass(slots=True)
class Progress:
    """Counters of all steps, in the order of their first execution."""

    steps: dict[str, StepCount] = field(default_factory=dict)
    began_at: float = field(default_factory=time.monotonic)

    def expects(self, totals: Mapping[str, int]) -> None:
        """Set how many work items each step has received so far."""
        for name, total in totals.items():
            self._step(name).total = total

    def began(self, events: Iterable[StreamEvent]) -> None:
        """Count executions that began, from the stream."""
        for event in events:
            if event.envelope.type == STEP_STATE_CHANGED and event.envelope.value()["step_state"] == "running":
                self._step(event.envelope.value()["name"]).started += 1

    def ended(self, executions: Iterable[Execution]) -> None:
        """Count executions that ended, from the journal."""
        for execution in executions:
            step = self._step(execution.step)
            step.over += 1
            step.last_at = time.monotonic()
            match execution.outcome:
                case "done":
                    step.done += 1
                case "failed":
                    step.failed += 1
                case "retrying":
                    step.retried += 1
                case "waiting":
                    step.waiting += 1
                case "lost" | "hung":
                    step.lost += 1

    def _step(self, name: str) -> StepCount:
        if name not in self.steps:
            self.steps[name] = StepCount(first_at=time.monotonic())
        return self.steps[name]


class JournalTail:
    """Reads a run's journal as it grows."""

    def __init__(self, store: Store, run_id: str, steps: Collection[str]) -> None:
        """Args:
        store: The deployment.
        run_id: The run.
        steps: Names of its steps. An entry may also lead to child runs, which are not counted here.
        """
        self._store, self._run_id, self._steps = store, run_id, steps
        self._last: Entry | int = 0
        self._reached: dict[str, set[str]] = {}
        self._staged: Counter[str] = Counter()

    @property
    def totals(self) -> dict[str, int]:
        """How many work items each step has received, as far as the journal has been read."""
        return {
            name: len(self._reached.get(name, ())) + self._staged[name] for name in {**self._reached, **self._staged}
        }

    async def new(self) -> list[Execution]:
        """The executions that have ended since the last call."""
        found: list[Execution] = []
        async for entry in entries(self._store, self._run_id, after=self._last):
            found.extend(ended(entry.at, entry.kind, entry.about, {}))
            self._count(entry.about)
            self._last = entry
        return found

    def _count(self, data: Any) -> None:
        """Count the work that an entry led to, by id: a fan-in is named once for each event that it collects."""
        if isinstance(data, dict):
            for group in data.get("led_to") or ():
                if group["s"] in self._steps:
                    self._reached.setdefault(group["s"], set()).update(group["w"])
            self._staged.update(data.get("staged") or {})


class Display(Protocol):
    """How progress is shown."""

    def begin(self, run_id: str) -> None:
        """Show the run's id."""

    def show(self, progress: Progress, *, is_last: bool = False) -> None:
        """Show the progress, unless it was shown very recently."""

    def say(self, text: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """Restore the terminal."""


class LiveTable:
    """A table that is redrawn in place."""

    def __init__(self) -> None:
        self._run_id = ""
        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()
        self._shown_at = 0.0

    def begin(self, run_id: str) -> None:
        self._run_id = run_id

    def show(self, progress: Progress, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if is_last or now - self._shown_at >= LIVE_SECONDS:
            self._shown_at = now
            took = duration(now - progress.began_at)
            head = Text.assemble(("Run ", "dim"), self._run_id, (f"  {took}", "dim"), overflow="ellipsis", no_wrap=True)
            self._live.update(Group(head, _table(progress, now)), refresh=True)

    def say(self, text: str) -> None:
        self._console.print(Text.from_ansi(text))

    def close(self) -> None:
        self._live.stop()


def _table(progress: Progress, now: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("step", overflow="ellipsis", no_wrap=True)
    for name in ("running", "waiting", "done", "retried", "failed", "time"):
        table.add_column(name, justify="right")
    table.add_column("")
    for name, step in progress.steps.items():
        seconds = (now if step.running else step.last_at) - step.first_at
        table.add_row(
            Text(name, style="bold" if step.running else ""),
            Text(str(step.running or ""), style="cyan"),
            Text(str(step.asleep or ""), style="magenta"),
            Text(str(step.done or ""), style="green"),
            Text(str(step.retried + step.lost or ""), style="yellow"),
            Text(str(step.failed or ""), style="red"),
            Text(duration(max(0.0, seconds)), style="dim"),
            _bar(step),
        )
    return table


def _bar(step: StepCount) -> RenderableType:
    """A bar that shows how many of a fan-out's events the step has finished."""
    if step.total < 2:
        return ""
    bar, text = Table.grid(padding=(0, 1)), f"{step.settled} of {step.total}"
    bar.add_column(max_width=_BAR_COLUMNS)
    bar.add_column(min_width=len(text), no_wrap=True)
    # On a narrow terminal the bar becomes shorter, not the numbers.
    bar.add_row(
        ProgressBar(step.total, step.settled, complete_style="green", finished_style="green"), Text(text, style="dim")
    )
    return bar


class ProgressLines:
    """One line per step and change, for logs and pipes."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._shown_at = 0.0

    def begin(self, run_id: str) -> None:
        self.say(f"Run {run_id}")

    def show(self, progress: Progress, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if not is_last and now - self._shown_at < LINES_SECONDS:
            return
        self._shown_at = now
        for name, step in progress.steps.items():
            line = _line(step)
            if self._shown.get(name) != line:
                self._shown[name] = line
                seconds = (now if step.running else step.last_at) - step.first_at
                self.say(f"{name}: {line} ({duration(max(0.0, seconds))})")

    def say(self, text: str) -> None:
        click.echo(text, err=True)

    def close(self) -> None:
        """Nothing to do."""


def _line(step: StepCount) -> str:
    counts = {
        "running": step.running,
        "done": step.done,
        "waiting": step.waiting,
        "retried": step.retried,
        "lost": step.lost,
        "failed": step.failed,
    }
    said = ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "started"
    return f"{said}, of {step.total}" if step.total > max(1, step.settled) else said


def display() -> Display:
    """A table if standard error is a terminal, else lines."""
    return LiveTable() if sys.stderr.isatty() else ProgressLines()

"""Who is measured with whom, in which shapes, and what umbel has to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from . import measure, measure_memory, measure_progress, measure_waits, measure_workers
from .contender import Contender
from .shape import Shape, Sizes

UMBEL, ONE_WORKER = "umbel", "umbel, 1 worker"
BY_HAND, TWO_SOLO, CANVAS = "Celery by hand, prefork 2", "Celery by hand, 2 solo", "Celery canvas"
DRAMATIQ, TASKIQ, LLAMA_INDEX, DBOS = "dramatiq", "taskiq", "LlamaIndex", "DBOS"


@dataclass(frozen=True)
class Entry:
    """A contender to be: module and class, which are loaded when needed, as peers need not be installed."""

    name: str
    place: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Contender | None:
        """The contender; None when its package is not installed."""
        module, _, name = self.place.partition(":")
        try:
            kind = getattr(import_module(f"benchmarks.{module}"), name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("benchmarks"):
                raise
            return None
        contender: Contender = kind(self.name, **self.options)
        return contender


@dataclass(frozen=True)
class Section:
    """Contenders that run side by side, the first of which is compared with the others."""

    entries: Sequence[Entry]
    shapes: Sequence[Shape]


def umbel(sizes: Sizes, **options: Any) -> Entry:
    """umbel, as its users start it."""
    return Entry(UMBEL, "contend_umbel:Umbel", {"processes": sizes.processes, **options})


def by_hand(name: str = BY_HAND, **options: Any) -> Entry:
    """Celery, by default with one worker of two processes."""
    return Entry(name, "contend_celery:ByHand", options)


def sections(sizes: Sizes) -> list[Section]:
    """All, in the order of measuring."""
    return [_peers(sizes), _task_events(sizes), _fsync(sizes), _workers(sizes)]


def _peers(sizes: Sizes) -> Section:
    entries = [
        umbel(sizes),
        by_hand(),
        by_hand(TWO_SOLO, processes=2, pool="solo", concurrency=1),
        Entry(CANVAS, "contend_celery:Canvas"),
        Entry(DRAMATIQ, "contend_dramatiq:Dramatiq"),
        Entry(TASKIQ, "contend_taskiq:Taskiq"),
        Entry(LLAMA_INDEX, "contend_llama_index:LlamaIndex"),
    ]
    fan, fans = sizes.fan, sizes.fans_at_once
    quickest = dict.fromkeys([DRAMATIQ, TASKIQ, LLAMA_INDEX], 1.2)
    shapes = [
        # Memory first, while little is stored.
        Shape(
            "memory", "Redis, a finished chain of 10", "bytes", "lower",
            measure_memory.bytes_finished_chain, is_exact=True,
        ),
        Shape(
            "memory", f"Redis, a finished fan-out of {fan}", "bytes", "lower",
            measure_memory.bytes_finished_fan, is_exact=True,
        ),
        Shape(
            "memory", "Redis, a chain of 10 half-way", "bytes", "lower",
            measure_memory.bytes_running_chain, is_exact=True,
        ),
        Shape(
            "single", "one step, start to result (canvas: `.get()`)", "ms", "lower", measure.single_step,
            {CANVAS: 1.2},
        ),
        Shape(
            "chain", "chain of 10, alone", "ms", "lower", measure.chain_alone,
            {BY_HAND: 0.4, TWO_SOLO: 0.4, LLAMA_INDEX: 1.5},
        ),
        Shape(
            "chain", f"chain of 10, {sizes.chains_at_once} at once", "steps/s", "higher", measure.chains_at_once,
            {BY_HAND: 4.0, TWO_SOLO: 2.5, **quickest},
        ),
        Shape("chain", "processor time per step of a chain", "us", "lower", measure.processor_time_of_chains),
        Shape("fan", f"fan-out of {fan} and join, alone", "ms", "lower", measure.fan_alone),
        Shape(
            "fan", f"fan-out of {fan} and join, {fans} at once", "steps/s", "higher", measure.fans_at_once,
            {BY_HAND: 2.0, TWO_SOLO: 2.0, CANVAS: 3.0},
        ),
        Shape("fan", "processor time per step of a fan-out", "us", "lower", measure.processor_time_of_fans),
        Shape("fan", f"fan-out of {sizes.wide:,} and join", "steps/s", "higher", measure.wide_fan),
        Shape("fan", f"fan-out of {sizes.widest:,} and join", "steps/s", "higher", measure.widest_fan, {CANVAS: 5.0}),
        Shape(
            "progress", "progress event, step to reader", "ms", "lower", measure_progress.progress_alone,
            {BY_HAND: 4.0},
        ),
        Shape(
            "progress", f"{sizes.burst:,} progress events in a burst, step to reader", "ms", "lower",
            measure_progress.progress_burst, limits={UMBEL: 5.0},
        ),
        Shape("progress", "round trips of that burst", "", "lower", measure_progress.round_trips_of_burst),
    ]  # fmt: skip
    return Section(entries, shapes)


def _task_events(sizes: Sizes) -> Section:
    chains, fan, fans = sizes.chains_at_once, sizes.fan, sizes.fans_at_once
    shapes = [
        Shape(
            "events", f"chain of 10, {chains} at once, task events on", "steps/s", "higher", measure.chains_at_once,
            {BY_HAND: 4.0},
        ),
        Shape(
            "events", f"fan-out of {fan} and join, {fans} at once, task events on", "steps/s", "higher",
            measure.fans_at_once,
        ),
    ]  # fmt: skip
    return Section([umbel(sizes, task_events=True), by_hand(task_events=True)], shapes)


def _fsync(sizes: Sizes) -> Section:
    chains, fan, fans = sizes.chains_at_once, sizes.fan, sizes.fans_at_once
    shapes = [
        Shape("durable", "chain of 10, alone, appendfsync always", "ms", "lower", measure.chain_alone, {DBOS: 0.2}),
        Shape(
            "durable", f"chain of 10, {chains} at once, appendfsync always", "steps/s", "higher",
            measure.chains_at_once, {DBOS: 5.0},
        ),
        Shape(
            "durable", f"fan-out of {fan} and join, {fans} at once, appendfsync always", "steps/s", "higher",
            measure.fans_at_once,
        ),
    ]  # fmt: skip
    return Section([umbel(sizes, appendfsync="always"), Entry(DBOS, "contend_dbos:Dbos")], shapes)


def _workers(sizes: Sizes) -> Section:
    steps = f"{sizes.awaiting:,} steps each awaiting {sizes.awaited_seconds:g} s"
    grown = f"fan-out of {sizes.widest:,}, per step, against {sizes.fan}"
    shapes = [
        # Memory before anything wide, which would raise it.
        Shape(
            "awaiting", f"{steps}, peak memory of a worker", "MB", "lower", measure_workers.peak_memory,
            limits={ONE_WORKER: 120.0}, is_exact=True,
        ),
        Shape("awaiting", steps, "s", "lower", measure_workers.awaiting, limits={ONE_WORKER: 1.5}),
        Shape(
            "waits", f"{sizes.awaiting:,} waits for events in one run, until all wait", "s", "lower",
            measure_waits.waits_in_one_run, limits={UMBEL: 3.0},
        ),
        Shape(
            "waits", f"{sizes.awaiting:,} waits for events in one run, until all are answered", "s", "lower",
            measure_waits.answers_in_one_run,
        ),
        Shape("idle", "idle worker, of a processor", "%", "lower", measure_workers.idle, limits={ONE_WORKER: 1.0}),
        Shape(
            "processes", f"steps of {sizes.computed_seconds * 1000:g} ms of computing", "steps/s", "higher",
            measure_workers.computing, {ONE_WORKER: 1.7},
        ),
        Shape("growth", f"{grown}: time alone", "x", "lower", measure.growth_of_fans, limits={UMBEL: 1.2}),
        Shape(
            "growth", f"{grown}: processor time", "x", "lower", measure.growth_of_processor_time,
            limits={UMBEL: 1.2},
        ),
    ]  # fmt: skip
    return Section([umbel(sizes), Entry(ONE_WORKER, "contend_umbel:Umbel", {"processes": 1})], shapes)

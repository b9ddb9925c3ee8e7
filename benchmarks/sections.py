"""The groups of measurements: which contenders are compared, in which shapes, and umbel's targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from . import measure, measure_memory, measure_progress, measure_waits, measure_workers
from .contender import Contender
from .shape import Shape, Sizes

UMBEL, ONE_WORKER = "umbel", "umbel, 1 worker"
PREFORK, THREADS, SUMMARY = "umbel, prefork pool", "umbel, threads pool", "umbel, history summary"
BY_HAND, TWO_SOLO, CANVAS = "Celery by hand, prefork 2", "Celery by hand, 2 solo", "Celery canvas"
DRAMATIQ, TASKIQ, LLAMA_INDEX, DBOS = "dramatiq", "taskiq", "LlamaIndex", "DBOS"


@dataclass(frozen=True)
class Entry:
    """A possible contender: module and class, loaded on demand, because peers need not be installed."""

    name: str
    place: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Contender | None:
        """Create the contender; None if its package is not installed."""
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
    """Contenders that are measured side by side; the first one is compared with the others."""

    entries: Sequence[Entry]
    shapes: Sequence[Shape]


def umbel(sizes: Sizes, *, name: str = UMBEL, **options: Any) -> Entry:
    """umbel, by default as users start it."""
    return Entry(name, "contend_umbel:Umbel", {"processes": sizes.processes, **options})


def by_hand(name: str = BY_HAND, **options: Any) -> Entry:
    """Celery, by default with one worker of two processes."""
    return Entry(name, "contend_celery:ByHand", options)


def sections(sizes: Sizes) -> list[Section]:
    """All sections, in the order of measurement."""
    return [_peers(sizes), _task_events(sizes), _pools(sizes), _history(sizes), _fsync(sizes), _workers(sizes)]


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
    quickest = dict.fromkeys([DRAMATIQ, TASKIQ, LLAMA_INDEX], 2.0)
    shapes = [
        # Memory first, while little is stored.
        Shape(
            "memory", "Redis, a finished chain of 10", "bytes", "lower",
            measure_memory.bytes_finished_chain, limits={UMBEL: 8_000}, is_exact=True,
        ),
        Shape(
            "memory", f"Redis, a finished fan-out of {fan}", "bytes", "lower",
            measure_memory.bytes_finished_fan, limits={UMBEL: 80_000}, is_exact=True,
        ),
        Shape(
            "memory", "Redis, a chain of 10 half-way", "bytes", "lower",
            measure_memory.bytes_running_chain, is_exact=True,
        ),
        Shape(
            "single", "one step, start to result (canvas: `.get()`)", "ms", "lower", measure.single_step,
            {CANVAS: 0.9},
        ),
        Shape(
            "chain", "chain of 10, alone", "ms", "lower", measure.chain_alone,
            {BY_HAND: 0.25, LLAMA_INDEX: 1.0},
        ),
        Shape(
            "chain", f"chain of 10, {sizes.chains_at_once} at once", "steps/s", "higher", measure.chains_at_once,
            {BY_HAND: 8.0, TWO_SOLO: 5.0, **quickest},
        ),
        Shape(
            "chain", f"processor time of all processes per step of {sizes.chains_at_once} chains", "us", "lower",
            measure.processor_time_of_chains, {DRAMATIQ: 0.5},
        ),
        Shape("fan", f"fan-out of {fan} and join, alone", "ms", "lower", measure.fan_alone),
        Shape(
            "fan", f"fan-out of {fan} and join, {fans} at once", "steps/s", "higher", measure.fans_at_once,
            {BY_HAND: 6.0, DRAMATIQ: 2.0, TASKIQ: 2.0},
        ),
        Shape(
            "fan", f"processor time of all processes per step of {fans} fan-outs", "us", "lower",
            measure.processor_time_of_fans,
        ),
        Shape("fan", f"fan-out of {sizes.wide:,} and join", "steps/s", "higher", measure.wide_fan),
        Shape("fan", f"fan-out of {sizes.widest:,} and join", "steps/s", "higher", measure.widest_fan, {CANVAS: 20.0}),
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
            {BY_HAND: 6.0},
        ),
        Shape(
            "events", "processor time of all processes per step, task events on", "us", "lower",
            measure.processor_time_of_chains,
        ),
        Shape(
            "events", f"fan-out of {fan} and join, {fans} at once, task events on", "steps/s", "higher",
            measure.fans_at_once,
        ),
    ]  # fmt: skip
    return Section([umbel(sizes, task_events=True), by_hand(task_events=True)], shapes)


def _pools(sizes: Sizes) -> Section:
    entries = [
        umbel(sizes, pool="prefork", concurrency=1, name=PREFORK),
        umbel(sizes, pool="threads", concurrency=4, name=THREADS),
        by_hand(),
    ]
    shapes = [
        Shape(
            "pools", f"chain of 10, {sizes.chains_at_once} at once, Celery's own pools", "steps/s", "higher",
            measure.chains_at_once, {BY_HAND: 1.2},
        ),
        Shape(
            "pools", "processor time of all processes per step, Celery's own pools", "us", "lower",
            measure.processor_time_of_chains,
        ),
        Shape("pools", "chain of 10, alone, Celery's own pools", "ms", "lower", measure.chain_alone),
    ]  # fmt: skip
    return Section(entries, shapes)


def _history(sizes: Sizes) -> Section:
    shapes = [
        Shape(
            "history", "Redis, a finished chain of 10, without values in the journal", "bytes", "lower",
            measure_memory.bytes_finished_chain, is_exact=True,
        ),
        Shape(
            "history", f"chain of 10, {sizes.chains_at_once} at once, without values in the journal", "steps/s",
            "higher", measure.chains_at_once,
        ),
        Shape(
            "history", "processor time of all processes per step, without values in the journal", "us", "lower",
            measure.processor_time_of_chains,
        ),
    ]  # fmt: skip
    return Section([umbel(sizes, name=SUMMARY, settings={"history": "summary"}), umbel(sizes)], shapes)


def _fsync(sizes: Sizes) -> Section:
    chains, fan, fans = sizes.chains_at_once, sizes.fan, sizes.fans_at_once
    shapes = [
        Shape("durable", "chain of 10, alone, appendfsync always", "ms", "lower", measure.chain_alone, {DBOS: 0.35}),
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
        Shape(
            "processes", f"chain of 10, {sizes.chains_at_once} at once, by worker processes", "steps/s", "higher",
            measure.chains_at_once,
            {ONE_WORKER: 1.0},
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

"""`umbel runs` and `umbel show`: the list of runs, and what happened in one of them."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import click

from ....orchestration.inspection.endings import result_of, traceback_of, why_not_completed
from ....orchestration.inspection.run_detail import read_detail
from ....orchestration.inspection.run_list import newest_runs
from ....orchestration.inspection.selection import tags_of
from ....orchestration.inspection.timeline import OUTCOMES, Execution, duration, executions
from ....orchestration.inspection.unfinished import Unfinished, running, unfinished
from ....orchestration.model.commands import RUN_STATUSES
from ....orchestration.model.envelope import Envelope
from ....orchestration.model.tagged_json import fields_of
from ....orchestration.store.journal import extent
from ....orchestration.store.replies import RunRecord
from ....orchestration.store.verbs import Store
from ..deployment.existing import existing_store
from ..deployment.options import deployment_options
from ..output import clock, counted, instant, iso, note, print_json, print_table, say
from ..waiting import paused_because, unaccepted_events
from .conditions import since_option, tag_option
from .find import find_run

#: The status shown for a running run whose remaining work all waits for events.
_WAITING = "waiting"
#: Characters of an input or result that are shown; --json shows all.
_SHOWN_CHARACTERS = 2_000


@click.command()
@click.option(
    "--status",
    type=click.Choice([*RUN_STATUSES, _WAITING]),
    help="Only runs with this status; waiting: running, but continued only by an event from outside.",
)
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow; the last part of its name is enough.")
@tag_option
@since_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@deployment_options
def runs(
    status: str | None,
    workflow: str | None,
    tag: tuple[str, ...],
    since: datetime | None,
    limit: int,
    as_json: bool,
    redis_url: str | None,
    state: str | None,
) -> None:
    """List the newest runs, newest first."""

    def fits(record: RunRecord) -> bool:
        return (
            workflow in (None, record.workflow, record.workflow.rpartition(".")[2])
            and (status != _WAITING or record.is_asleep)
            and set(tag) <= set(tags_of(record.options))
            and (since is None or record.created_at >= since.timestamp() * 1000)
        )

    has_filter = bool(workflow or tag or since) or status == _WAITING
    with existing_store(redis_url, state) as (store, portal):
        of_status = "running" if status == _WAITING else status
        found = portal.call(_newest(store, of_status, fits if has_filter else None, limit))
    if as_json:
        print_json([_summary(record) for record in found])
        return
    if not found:
        note("No matching runs." if status or has_filter else "No runs yet.")
        return
    print_table(
        ("RUN", "STATUS", "STARTED", "DURATION", "WORKFLOW"),
        (
            (each.run_id, _status(each), instant(each.created_at), duration(_seconds(each)), each.workflow)
            for each in found
        ),
    )


def _status(record: RunRecord) -> str:
    if record.is_queued:
        return "queued in its session"
    if record.is_asleep:
        return _WAITING
    return f"{record.status}, waiting for its concurrency limit" if record.waits_for_admission else record.status


async def _newest(
    store: Store, status: str | None, fits: Callable[[RunRecord], bool] | None, limit: int
) -> list[RunRecord]:
    if fits is None:
        return await newest_runs(store, status=status, limit=limit)
    batch = max(100, limit)
    while True:
        records = await newest_runs(store, status=status, limit=batch)
        found = list(filter(fits, records))
        if len(found) >= limit or len(records) < batch:
            return found[:limit]
        batch *= 4


def _seconds(record: RunRecord) -> float | None:
    return None if record.ended_at is None else (record.ended_at - record.created_at) / 1000


def _summary(record: RunRecord) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "workflow": record.workflow,
        "status": record.status,
        "is_waiting": record.is_asleep,
        "waits_for_admission": record.waits_for_admission,
        "is_queued": record.is_queued,
        "tags": list(tags_of(record.options)),
        "created_at": iso(record.created_at),
        "ended_at": iso(record.ended_at),
        "seconds": _seconds(record),
        "parent": record.parent,
    }


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--limit", type=click.IntRange(min=0), default=100, show_default=True, help="Latest executions; 0 for all."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@deployment_options
def show(run_id: str, limit: int, as_json: bool, redis_url: str | None, state: str | None) -> None:
    """Show what happened in RUN: each execution of a step, its worker, times and outcome."""
    with existing_store(redis_url, state) as (store, portal):
        run_id = portal.call(find_run(store, run_id))
        record, found, left, cut = portal.call(_read(store, run_id))
        detail = portal.call(read_detail(store, run_id))
        questions = portal.call(_questions(store, run_id)) if detail.questions else []
        paused = portal.call(paused_because(store, record.workflow))
        unaccepted = portal.call(unaccepted_events(store, run_id))
    if as_json:
        given = {"input": _input(detail.began_with), "journal_entries_removed": cut}
        print_json(_whole(record, found, left) | given)
        return
    _print_head(record, found, left, detail.began_with)
    if paused is not None and record.status == "running":
        note(paused)
    if unaccepted is not None and record.status in ("running", "timed_out"):
        note(unaccepted)
    for question in questions:
        for line in question.lines(run_id):
            say(line)
    if cut:
        note(
            f"{cut:,} of the oldest entries were removed, because the journal of the run had become too large. See "
            "UMBEL_JOURNAL_MAX_BYTES and UMBEL_JOURNAL_MAX_ENTRIES."
        )
    shown = found[-limit:] if limit else found
    if len(shown) < len(found):
        note(f"… {len(found) - len(shown)} earlier ones not shown; --limit 0 shows all.")
    if shown:
        say()
        print_table(
            ("STEP", "ATTEMPT", "WORKER", "STARTED", "DURATION", "OUTCOME"), (_row(each, record) for each in shown)
        )
    for (step, trace), attempts in _tracebacks(shown).items():
        numbers = ", ".join(map(str, dict.fromkeys(attempts)))
        times = f", {len(attempts)} times" if len(attempts) > len(set(attempts)) else ""
        say(f"\n{step}, attempt {numbers}{times}:\n{trace}")


async def _questions(store: Store, run_id: str) -> list[Any]:
    # Imported only for a run that waits for an answer: importing the event classes takes half this command's time.
    found: list[Any] = await importlib.import_module("..questions", __package__).open_questions(store, run_id)
    return found


def _input(began_with: Envelope | None) -> dict[str, Any] | None:
    return None if began_with is None else fields_of(began_with.value())


def _tracebacks(found: Iterable[Execution]) -> dict[tuple[str, str], list[int]]:
    """Step and traceback -> the attempts that ended with it, so that each traceback is printed once."""
    attempts: dict[tuple[str, str], list[int]] = {}
    for each in found:
        if each.traceback:
            attempts.setdefault((each.step, each.traceback), []).append(each.attempt)
    return attempts


async def _read(store: Store, run_id: str) -> tuple[RunRecord, list[Execution], list[Unfinished], int]:
    """A run, its executions, its unfinished work, and how many entries were removed from its journal."""
    record = await store.run(run_id)
    left = await unfinished(store, run_id) if record.status == "running" else []
    found = [*executions(await store.journal(run_id)), *running(left)]
    return record, found, left, (await extent(store, run_id)).first - 1


def _print_head(record: RunRecord, found: list[Execution], left: list[Unfinished], began_with: Envelope | None) -> None:
    lines = [
        ("Run", record.run_id),
        ("Workflow", record.workflow),
        ("Status", _status(record)),
        ("Started", instant(record.created_at)),
        ("Ended", f"{instant(record.ended_at)}, after {duration(_seconds(record))}" if record.ended_at else ""),
        ("Parent", record.parent or ""),
        ("Input", "" if began_with is None else _shortened(json.dumps(_input(began_with), ensure_ascii=False))),
        ("Executions", _counts(found)),
    ]
    failure = why_not_completed(record)
    if failure is not None:
        lines.append(("Error", failure))
    elif record.status == "completed":
        lines.append(("Result", _shortened(repr(result_of(record)))))
    lines.extend(("Open", text) for text in _open(left))
    width = max(len(name) for name, _ in lines) + 2
    for name, text in lines:
        if text:
            say(f"{name + ':':<{width}}{text}")


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… (--json shows all)"


def _counts(found: list[Execution]) -> str:
    counts = Counter("waited" if each.outcome == "waiting" else each.outcome for each in found)
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items())


def _open(left: list[Unfinished]) -> list[str]:
    """Executions that have not begun or are waiting, one line per kind and step."""
    groups: Counter[tuple[str, str]] = Counter()
    for item in left:
        match item.state:
            case "ready":
                groups[item.step, f"dispatched to queue {item.queue!r}, not yet claimed by a worker"] += 1
            case "delayed":
                groups[item.step, "waiting for the next attempt"] += 1
            case "suspended":
                what = counted(item.children, "child run") if item.children else " or ".join(item.awaits) or "an event"
                groups[item.step, f"waiting for {what}"] += 1
            case "parked":
                groups[item.step, "parked: no worker has its code"] += 1
    return [f"{step}: {counted(number, 'execution')} {what}" for (step, what), number in groups.items()]


def _row(execution: Execution, record: RunRecord) -> tuple[str, ...]:
    started = instant(execution.started_at)
    if started[:10] == instant(record.created_at)[:10]:  # the head shows the date
        started = clock(execution.started_at)
    outcome = OUTCOMES[execution.outcome]
    if execution.outcome == "waiting" and record.status != "running":
        outcome = "waited"
    if execution.retry_delay_seconds:
        outcome += f" after {duration(execution.retry_delay_seconds)}"
    if execution.error:
        outcome += f": {execution.error.removeprefix('builtins.')}"
    if execution.event:
        outcome += f" → {execution.event.rpartition('.')[2]}"
    return (
        execution.step,
        str(execution.attempt),
        execution.worker,
        started,
        duration(execution.seconds),
        outcome,
    )


def _whole(record: RunRecord, found: list[Execution], left: list[Unfinished]) -> dict[str, Any]:
    return _summary(record) | {
        "result": result_of(record) if record.status == "completed" else None,
        "error": why_not_completed(record),
        "traceback": traceback_of(record),
        "executions": [
            {
                "step": each.step,
                "work_id": each.work_id,
                "attempt": each.attempt,
                "worker": each.worker,
                "process": each.process,
                "started_at": iso(each.started_at),
                "ended_at": iso(each.ended_at),
                "seconds": each.seconds,
                "outcome": each.outcome,
                "event": each.event,
                "error": each.error,
                "traceback": each.traceback,
                "retry_delay_seconds": each.retry_delay_seconds,
            }
            for each in found
        ],
        "open": [
            {
                "step": item.step,
                "work_id": item.work_id,
                "attempt": item.attempt,
                "state": item.state,
                "awaits": list(item.awaits),
            }
            for item in left
            if item.state != "running"
        ],
    }

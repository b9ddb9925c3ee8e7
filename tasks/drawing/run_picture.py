"""A past run as a picture: a box for each work item, and between them the events that led from one to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ...orchestration.inspection.run_trace import OUTSIDE, START, STOP, PastRun
from ...orchestration.inspection.timeline import OUTCOMES, Execution, duration
from .picture import Arrow, Box, Line, Look, Picture, shortened

#: Most work items in one drawing; more would be unreadable. Of a longer run the first ones (two thirds) and the last
#: ones (one third) are drawn.
MAX_ITEMS = 120
#: Siblings are the work items of one step for the events of one source. Of more than this many only some are drawn: the
#: first, the last and those that did not simply succeed.
MAX_SIBLINGS = 12

_FIRST, _NOTABLE, _LAST = 6, 4, 2


def run_picture(run: PastRun, max_label_length: int | None = None, max_items: int = MAX_ITEMS) -> Picture:
    """Draw a run so far.

    Args:
        run: The run.
        max_label_length: Longer labels are cut; hovering shows them in full. None cuts nothing.
        max_items: Most work items that get a box of their own: the first and the last ones.
    """
    place = _places(run, max_items)
    shown = [work_id for work_id in _in_order(run) if place[work_id] == work_id]
    names_worker = len({each.worker for found in run.executions.values() for each in found}) > 1
    boxes = [_item(run, work_id, max_label_length, names_worker) for work_id in shown]
    left_out = Counter(place[work_id] for work_id in run.steps if place[work_id] != work_id)
    boxes += [
        Box(stand_in, "omitted", f"{_times(shortened(stand_in.partition(':')[2], max_label_length), count)} more")
        for stand_in, count in left_out.items()
    ]
    events, arrows = _events(run, place, max_label_length)
    return Picture(
        title=f"{run.record.workflow.rpartition('.')[2]}: {run.record.run_id}",
        boxes=tuple(sorted([*boxes, *events], key=lambda box: box.look != "start")),
        arrows=tuple(arrows),
        facts=_facts(run),
        headings=("Step", "Attempt", "Began after", "Took", "Worker", "Outcome"),
        rows=tuple(_row(run, each) for work_id in shown for each in run.executions.get(work_id, ())),
        remarks=tuple(_remarks(run, left_out.total())),
    )


# -- what is drawn ---------------------------------------------------------------------------------------------------


def _in_order(run: PastRun) -> list[str]:
    """The work items in order of their start; those that did not start come last."""
    return [*run.executions, *(work_id for work_id in run.steps if work_id not in run.executions)]


def _places(run: PastRun, max_items: int) -> dict[str, str]:
    """The box of each work item: its own, or one that stands for several, `number:step`."""
    sources: dict[str, dict[str, None]] = {}
    for hop in run.hops:
        sources.setdefault(hop.target, {})[hop.source] = None
    place: dict[str, str] = {}
    stand_ins: dict[tuple[str, str], str] = {}

    def stand_in(source: str, step: str) -> str:
        return stand_ins.setdefault((source, step), f"{len(stand_ins)}:{step}")

    siblings: dict[tuple[str, str], list[str]] = {}
    for work_id in _in_order(run):
        siblings.setdefault((next(iter(sources.get(work_id, ())), ""), run.steps[work_id]), []).append(work_id)
    unremarkable: set[str] = set()
    for (source, _), group in siblings.items():
        if source and len(group) > MAX_SIBLINGS:
            kept = {*group[:_FIRST], *group[-_LAST:], *[each for each in group if _is_notable(run, each)][:_NOTABLE]}
            unremarkable |= set(group) - kept
    for work_id in _in_order(run):
        step = run.steps[work_id]
        above = [place.get(source, source) for source in sources.get(work_id, ())]
        follows_stand_in = above and all(each in stand_ins.values() for each in above)
        place[work_id] = stand_in(above[0], step) if follows_stand_in or work_id in unremarkable else work_id
    drawn = [work_id for work_id in _in_order(run) if place[work_id] == work_id]
    if len(drawn) > max_items:
        last = max_items // 3
        for work_id in drawn[max_items - last : len(drawn) - last]:
            place[work_id] = stand_in("", "work items")
    return place


def _is_notable(run: PastRun, work_id: str) -> bool:
    return any(each.outcome not in ("done", "waiting") for each in run.executions.get(work_id, ()))


# -- work items ------------------------------------------------------------------------------------------------------


def _item(run: PastRun, work_id: str, max_label_length: int | None, names_worker: bool) -> Box:
    step = run.steps[work_id]
    found = run.executions.get(work_id, [])
    label = shortened(step, max_label_length)
    if not found:
        return Box(work_id, "pending", label, "not ended", f"{step}\n{_why_pending(run)}")
    last = found[-1]
    detail = [", ".join(_course(found)), shortened(last.worker, max_label_length) if names_worker else ""]
    title = [step, *(_sentence(run, each) for each in found)]
    return Box(work_id, _look(last), label, "\n".join(line for line in detail if line), "\n".join(title))


def _look(last: Execution) -> Look:
    match last.outcome:
        case "done":
            return "done"
        case "failed" | "retrying" | "rescued" | "hung":
            return "failed"
        case "waiting":
            return "waiting"
        case _:
            return "pending"


def _course(executions: list[Execution]) -> Iterable[str]:
    """A summary of a work item's attempts in a few words."""
    last = executions[-1]
    if last.outcome != "done":
        yield {"waiting": "waits", "retrying": "failed, tried again"}.get(last.outcome, last.outcome)
    if last.attempt > 1:
        yield f"attempt {last.attempt}"
    waited = [each for each in executions[:-1] if each.outcome == "waiting"]
    if waited and waited[-1].ended_at is not None:
        yield f"waited {duration((last.started_at - waited[-1].ended_at) / 1000)}"
    yield duration(last.seconds)


def _sentence(run: PastRun, execution: Execution) -> str:
    return (
        f"attempt {execution.attempt} on {execution.worker}, after {_since(run, execution.started_at)}, "
        f"{duration(execution.seconds)}: {_outcome(execution)}"
    )


def _outcome(execution: Execution) -> str:
    text = OUTCOMES[execution.outcome]
    if execution.retry_delay_seconds:
        text += f" after {duration(execution.retry_delay_seconds)}"
    if execution.error:
        text += f": {execution.error.removeprefix('builtins.')}"
    return text


def _row(run: PastRun, execution: Execution) -> tuple[str, ...]:
    return (
        execution.step,
        str(execution.attempt),
        _since(run, execution.started_at),
        duration(execution.seconds),
        execution.worker,
        _outcome(execution) + (f" → {_short(execution.event)}" if execution.event else ""),
    )


# -- events ----------------------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """Events of one class from one source, drawn as one box."""

    event: str
    in_list: bool
    is_failure: bool
    source: str
    count: int
    targets: dict[str, None]


def _events(run: PastRun, place: dict[str, str], max_label_length: int | None) -> tuple[list[Box], list[Arrow]]:
    """A box for each event (one for all of a list), and the arrows to and from it."""
    groups: dict[tuple[str, str, bool], _Group] = {}
    for number, (hop, count) in enumerate(run.hops.items()):
        source, target = place.get(hop.source, hop.source), place.get(hop.target, hop.target)
        if source == target and source != hop.source:
            continue  # within a box that stands for several
        key = (f"{source}{number if source == OUTSIDE else ''}", hop.event, hop.in_list)
        is_failure = _short(hop.event) in ("StepFailedEvent", "WorkflowFailedEvent")
        group = groups.setdefault(key, _Group(hop.event, hop.in_list, is_failure, source, 0, {}))
        group.count += count
        group.targets[target] = None
    boxes, arrows = [], []
    for number, group in enumerate(groups.values()):
        box_id = f"event-{number}"
        name = _short(group.event) or "events"
        label = _times(name, group.count) if group.in_list or group.count > 1 else name
        look: Look = "event"
        if group.source == START:
            look = "start"
        elif STOP in group.targets:
            look = "stop"
        elif OUTSIDE in (group.source, *group.targets):
            look = "external"
        boxes.append(Box(box_id, look, shortened(label, max_label_length), title=group.event or label))
        line: Line = "dashed" if group.is_failure else "thick" if group.in_list else "plain"
        if group.source not in (START, OUTSIDE):
            arrows.append(Arrow(group.source, box_id, line=line))
        arrows.extend(
            Arrow(box_id, target, line="dashed" if group.is_failure else "plain")
            for target in group.targets
            if target not in (STOP, OUTSIDE)
        )
    return boxes, arrows


# -- the whole -------------------------------------------------------------------------------------------------------


def _facts(run: PastRun) -> tuple[tuple[str, str], ...]:
    record = run.record
    began = datetime.fromtimestamp(record.created_at / 1000, UTC)
    seconds = None if record.ended_at is None else (record.ended_at - record.created_at) / 1000
    executions = [each for found in run.executions.values() for each in found]
    facts = [
        ("Workflow", record.workflow),
        ("Status", record.status),
        ("Started", f"{began:%Y-%m-%d %H:%M:%S} UTC"),
        ("Took", duration(seconds)),
        ("Steps executed", f"{len(executions):,}"),
        ("Workers", ", ".join(sorted({each.worker for each in executions}))),
    ]
    failed = [each for each in executions if each.outcome == "failed"]
    if record.status == "failed" and failed:
        facts.append(("Failed", f"{failed[-1].step}: {(failed[-1].error or '').removeprefix('builtins.')}"))
    return tuple((name, value) for name, value in facts if value)


def _remarks(run: PastRun, left_out: int) -> Iterable[str]:
    if run.record.status == "running":
        yield "The run has not ended. What its steps are doing right now is not in this drawing."
    elif run.record.status != "completed" and not any(hop.target == STOP for hop in run.hops):
        yield f"No step ended the run: it is {run.record.status.replace('_', ' ')}."
    if left_out:
        yield (
            f"{left_out:,} of {len(run.steps):,} work items are not drawn individually; dashed boxes with a number "
            "represent them."
        )
    if not run.is_complete:
        yield "A part of the journal was written by an older version of umbel: some arrows are missing."


def _why_pending(run: PastRun) -> str:
    return "it has not ended" if run.record.status == "running" else "the run ended before it did"


def _since(run: PastRun, at: int) -> str:
    return duration(max(0, at - run.record.created_at) / 1000)


def _times(name: str, count: int) -> str:
    return f"{name} \N{MULTIPLICATION SIGN} {count:,}"


def _short(name: str) -> str:
    return name.rpartition(".")[2]

"""The invariants that must hold after any fault once the deployment is idle: I1 to I11.

| | |
| --- | --- |
| I1 | every accepted run ends exactly once, with the expected result |
| I2 | each work item has exactly one recorded outcome; the journal misses none and repeats none |
| I3 | each join fires once, with exactly its members |
| I4 | an outcome is recorded only under the newest token; tokens of one item grow |
| I5 | user code runs at most once per claim and at least once per outcome; the bank books once per key |
| I6 | nothing comes after the end: the stream ends with it, the journal has one |
| I7 | when idle, no lease, dispatch, timer or lock is left, and every key of an ended run has a TTL |
| I8 | a run's log has no gap and no duplicate number; readers have read exactly what it contains |
| I9 | a run makes progress again after a fault: the soak allows 90 s, tests wait for the next progress |
| I10 | no process has ended, except those that were killed; none has stopped consuming, which the soak checks |
| I11 | replaying a run's journal from the beginning gives the run as it is |

Each check is a pure function of the observations, so a test can pass it broken ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from support.chaos.observed import Leftovers, RunSeen

#: Outcomes that complete a work item; retries, waits and losses do not.
FINAL = ("done", "failed", "rescued")


@dataclass(frozen=True)
class Violation:
    """One violated invariant."""

    invariant: str
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.about}: {self.text}"


def _token_number(token: str) -> int:
    return int(token.partition("-")[0])


def one_end(run: RunSeen) -> Iterator[Violation]:
    """I1."""
    about = f"run {run.run_id} ({run.kind})"
    if run.status is None:
        yield Violation("I1", about, "expected an end, and Redis does not know it")
    elif run.status == "running":
        yield Violation("I1", about, f"expected an end, and it still runs; its journal: {_tail(run)}")
    elif run.result != run.expected:
        yield Violation("I1", about, f"expected the result {run.expected!r}, found {run.result!r} ({run.status})")


def one_outcome(run: RunSeen) -> Iterator[Violation]:
    """I2."""
    commits = [data for _, kind, data in run.journal if kind == "commit"]
    if len(commits) != run.counted:
        yield Violation(
            "I2", f"run {run.run_id} ({run.kind})", f"{run.counted} commits counted, {len(commits)} in the journal"
        )
    final = [each for each in run.executions if each.outcome in FINAL]
    for work_id, times in Counter(each.work_id for each in final).items():
        if times != 1:
            yield Violation("I2", _item(run, work_id), f"expected one recorded outcome, found {times}")
    begun = {line["work"]: line for line in run.effects}
    recorded = {each.work_id for each in final}
    for work_id in (begun.keys() - recorded) if run.commits is not None else ():
        yield Violation(
            "I2", _item(run, work_id), f"its code has run ({begun[work_id]['what']}), no outcome is recorded"
        )
    if run.commits is not None:
        found = Counter(each.step for each in final)
        for step in sorted(set(run.commits) | set(found)):
            if found[step] != run.commits.get(step, 0):
                text = f"expected {run.commits.get(step, 0)} outcomes of step {step}, found {found[step]}"
                yield Violation("I2", f"run {run.run_id} ({run.kind})", text)


def joins_once(run: RunSeen) -> Iterator[Violation]:
    """I3."""
    members: dict[str, list[Any]] = {}
    for line in run.effects:
        if "members" not in line:
            continue
        known = members.setdefault(line["work"], line["members"])
        if known != line["members"]:
            text = f"attempt {line['attempt']} got the members {line['members']}, an earlier one {known}"
            yield Violation("I3", _item(run, line["work"]), text)
        if len(line["members"]) != len({repr(member) for member in line["members"]}):
            yield Violation("I3", _item(run, line["work"]), f"a member twice: {line['members']}")
    gathered = Counter(repr(found) for found in members.values())
    for found, times in gathered.items():
        if times != 1:
            yield Violation("I3", f"run {run.run_id} ({run.kind})", f"{times} joins fired with the members {found}")


def newest_token(run: RunSeen) -> Iterator[Violation]:
    """I4."""
    committed: dict[str, list[int]] = defaultdict(list)
    for _, kind, data in run.journal:
        if kind == "commit":
            committed[data["w"]].append(data["t"])
    for work_id, tokens in committed.items():
        if any(later <= earlier for earlier, later in pairwise(tokens)):
            yield Violation("I4", _item(run, work_id), f"expected tokens that grow, found {tokens}")
    final = {each.work_id for each in run.executions if each.outcome in FINAL}
    claimed: dict[str, int] = defaultdict(int)
    for line in run.effects:
        claimed[line["work"]] = max(claimed[line["work"]], _token_number(line["token"]))
    for work_id in final & claimed.keys():
        if committed[work_id] and claimed[work_id] > committed[work_id][-1]:
            text = f"its outcome is recorded under token {committed[work_id][-1]}, but {claimed[work_id]} was given out"
            yield Violation("I4", _item(run, work_id), text)


def code_per_claim(run: RunSeen, most: int | None) -> Iterator[Violation]:
    """I5."""
    ran: Counter[tuple[str, str, str]] = Counter()
    for line in run.effects:
        ran[line["work"], line["what"], line["token"]] += 1
    for (work_id, what, token), times in ran.items():
        if times > 1:
            yield Violation("I5", _item(run, work_id), f"{what} ran {times} times under one token, {token}")
    tokens: dict[str, set[str]] = defaultdict(set)
    for line in run.effects:
        tokens[line["work"]].add(line["token"])
    for each in run.executions:
        if each.outcome == "done" and run.effects and each.work_id not in tokens:
            yield Violation(
                "I5", _item(run, each.work_id), f"an outcome of {each.step} is recorded, its code never ran"
            )
    for work_id, seen in tokens.items():
        if most is not None and len(seen) > most:
            yield Violation("I5", _item(run, work_id), f"expected at most {most} executions, found {len(seen)}")
    for key, times in Counter(run.booked).items():
        if times != 1:
            yield Violation("I5", f"run {run.run_id} ({run.kind})", f"the bank booked {times} times under {key}")


def nothing_after_the_end(run: RunSeen) -> Iterator[Violation]:
    """I6."""
    about = f"run {run.run_id} ({run.kind})"
    ends = [kind for _, kind, _ in run.journal if kind == "end"]
    if len(ends) > 1:
        yield Violation("I6", about, f"its journal has {len(ends)} ends")
    if run.status in (None, "running"):
        return
    if run.last is None:
        yield Violation("I6", about, "its stream has no end")
    elif run.last != run.published[-1]:
        yield Violation("I6", about, f"its stream goes on after its end: number {run.last} of {run.published[-1]}")
    # Some entries may follow the end: the keys of an ended run get their TTL, and the parent's shard notes that a
    # child run, whose start was in progress, has begun: it must know that in order to cancel the child.
    last = next((kind for _, kind, _ in reversed(run.journal) if kind not in ("retire", "child_started")), None)
    if last not in ("commit", "end", "flush", "send", "wake"):
        yield Violation("I6", about, f"expected its journal to end with what ended it, found {last!r}")


def gapless(run: RunSeen) -> Iterator[Violation]:
    """I8."""
    about = f"run {run.run_id} ({run.kind})"
    if run.numbers != list(range(run.seq)):
        missing = sorted(set(range(run.seq)) - set(run.numbers))[:10]
        twice = [number for number, times in Counter(run.numbers).items() if times > 1][:10]
        beyond = [number for number in run.numbers if number >= run.seq][:10]
        yield Violation("I8", about, f"its log of {run.seq} lacks {missing}, has twice {twice}, and beyond {beyond}")
    if run.read is not None and run.status != "running" and run.read != run.published:
        yield Violation("I8", about, f"a reader was given {run.read}, its stream has {run.published}")


def rebuilt(run: RunSeen) -> Iterator[Violation]:
    """I11."""
    for difference in run.unlike_journal[:5]:
        yield Violation("I11", f"run {run.run_id} ({run.kind})", difference)


def lifetimes(run: RunSeen) -> Iterator[Violation]:
    """I7, for a run."""
    if run.status in (None, "running"):
        return
    for key, life in run.lifetimes.items():
        if life < 0:
            yield Violation("I7", f"run {run.run_id} ({run.kind})", f"it has ended, and its key {key} never expires")


def at_rest(left: Leftovers) -> Iterator[Violation]:
    """I7, for a deployment."""
    for key, members in left.indexed.items():
        yield Violation("I7", key, f"expected nothing at rest, found {members[:5]}")
    for key, members in left.held.items():
        yield Violation("I7", key, f"an owner still holds {members[:5]}")
    for key in left.for_good:
        yield Violation("I7", key, "it belongs to no run that goes on, and never expires")
    for key in left.expiring:
        yield Violation("I7", key, "it belongs to a run that goes on, and expires")


def all_alive(left: Leftovers) -> Iterator[Violation]:
    """I10."""
    for name in left.missing_workers:
        yield Violation("I10", f"worker {name}", "its main process has ended, and nobody killed it")


#: The checks of a single run, except I5, which needs to know how many executions a fault may cause.
OF_A_RUN: tuple[Callable[[RunSeen], Iterator[Violation]], ...] = (
    one_end,
    one_outcome,
    joins_once,
    newest_token,
    nothing_after_the_end,
    gapless,
    rebuilt,
    lifetimes,
)


def violations(runs: Sequence[RunSeen], left: Leftovers | None = None, *, most: int | None = None) -> list[Violation]:
    """Return all violations.

    Args:
        runs: The runs.
        left: What is left when idle; None when the deployment is not idle.
        most: The maximum number of executions per work item; None when it is unknown.
    """
    found = [wrong for run in runs for check in OF_A_RUN for wrong in check(run)]
    found += [wrong for run in runs for wrong in code_per_claim(run, most)]
    if left is not None:
        found += [*at_rest(left), *all_alive(left)]
    return found


def _item(run: RunSeen, work_id: str) -> str:
    return f"run {run.run_id} ({run.kind}), work item {work_id}"


def _tail(run: RunSeen) -> str:
    return ", ".join(
        f"{kind} {data.get('s', '') if isinstance(data, dict) else ''}" for _, kind, data in run.journal[-6:]
    )

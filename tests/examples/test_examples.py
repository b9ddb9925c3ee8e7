"""The examples work as described: through the API, on the command line, and as programs."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import approval
import code_audit
import orders
import parallel
import pytest
from streaming import Progress, Word

import umbel
from support.examples.plain_audit import plain_audit
from support.examples.timed_streaming import TimedPoet, Written
from umbel.workers.embedded.redis_server import EmbeddedRedis

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SMALL_TREE: dict[str, str | bytes] = {
    "shop/order.py": '''
def total(prices, discount=None):
    """Sum up."""
    result = sum(price for price in prices if price > 0)
    if discount is not None and discount > 0:
        result -= discount
    return result


class Order:
    async def pay(self, card):
        def retry():
            while True:
                yield 1 if card else 2
        try:
            return retry()
        except ValueError:
            return None
''',
    "shop/empty.py": "",
    "shop/old.py": "print 'hello'\n",
    "shop/latin.py": b"# -*- coding: latin-1 -*-\ndef gr\xfc\xdfe():\n    pass\n",
    "shop/site-packages/other.py": "def not_ours(): pass\n",
    "shop/notes.txt": "def no_python(): pass\n",
}


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """A few files of every kind."""
    for name, content in SMALL_TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / "tree"


def run_cli(*arguments: str | Path, state: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "umbel.workers.cli", *map(str, arguments)]
    environment = os.environ | {"UMBEL_STATE_DIR": str(state)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=check, timeout=110)


# -- code audit --------------------------------------------------------------------------------------------------------


def test_the_audit_of_a_small_tree_finds_what_is_there(workers: umbel.Runtime, small_tree: Path) -> None:
    report = code_audit.CodeAudit(timeout=60, runtime=workers).start(path=str(small_tree), top=2).result()

    assert (report.files, report.functions, report.undocumented) == (4, 4, 3)
    assert report.lines == 18 + 0 + 3
    assert report.most_complex == [(4, "shop/order.py:2 total"), (3, "shop/order.py:12 retry")]
    assert report.longest == [(8, "shop/order.py:11 pay"), (6, "shop/order.py:2 total")]
    assert report.least_documented == [(2, "shop/order.py"), (1, "shop/latin.py")]
    [problem] = report.unparsable
    assert problem.startswith("shop/old.py: SyntaxError: ")


def test_the_audit_of_an_empty_folder_is_an_empty_report(workers: umbel.Runtime, tmp_path: Path) -> None:
    report = code_audit.CodeAudit(timeout=60, runtime=workers).start(path=str(tmp_path)).result()

    assert (report.files, report.functions, report.most_complex, report.unparsable) == (0, 0, [], [])
    assert str(report).startswith("0 files, 0 lines, 0 functions")


def test_the_audit_of_a_folder_that_is_not_there_fails_and_says_so(workers: umbel.Runtime, tmp_path: Path) -> None:
    run = code_audit.CodeAudit(timeout=60, runtime=workers).start(path=str(tmp_path / "nowhere"))

    with pytest.raises(NotADirectoryError, match="nowhere"):
        run.result()


def test_what_is_audited_by_default_is_the_standard_library() -> None:
    assert code_audit.AuditRequest().path == sysconfig.get_paths()["stdlib"]


def test_the_audit_of_packages_of_the_standard_library_agrees_with_a_plain_count(
    workers: umbel.Runtime, tmp_path: Path
) -> None:
    for package in ("asyncio", "email", "importlib", "multiprocessing", "unittest", "xml"):
        shutil.copytree(Path(sysconfig.get_paths()["stdlib"], package), tmp_path / package)
    (tmp_path / "broken.py").write_text("def nothing(:\n")
    run = code_audit.CodeAudit(timeout=120, runtime=workers).start(path=str(tmp_path))
    seen = [(event.msg, run.is_done()) for event in run.events(types=[code_audit.Progress])]
    report = run.result()

    totals, complexities, lengths, undocumented, unparsable = plain_audit(tmp_path)
    assert totals["files"] > 100
    assert unparsable == {"broken.py"}
    assert {name: getattr(report, name) for name in totals} == totals
    assert {problem.partition(":")[0] for problem in report.unparsable} == unparsable
    for ranking, plain in (
        (report.most_complex, complexities),
        (report.longest, lengths),
        (report.least_documented, undocumented),
    ):
        assert [value for value, _ in ranking] == sorted(plain.values(), reverse=True)[:10]
        assert all(plain[where] == value for value, where in ranking)

    assert len(seen) == 1 + totals["files"] // 100
    assert seen[0] == (f"{totals['files']:,} files in {tmp_path.resolve()}", False)
    assert sum(not is_done for _, is_done in seen) > len(seen) / 2


def test_the_command_line_prints_the_report_for_people_and_as_json(small_tree: Path, tmp_path: Path) -> None:
    target = EXAMPLES / "code_audit.py"
    shown = run_cli("run", target, f"path={small_tree}", "top=1", state=tmp_path / "state")
    as_json = run_cli("run", target, f"path={small_tree}", "top=1", "--json", state=tmp_path / "state")

    assert shown.stdout.startswith("4 files, 21 lines, 4 functions, 3 of them without docstring\n")
    assert "\nMost complex functions\n       4  shop/order.py:2 total\n\n" in shown.stdout
    assert "\nFiles that do not parse: 1\n  shop/old.py: SyntaxError" in shown.stdout
    report = json.loads(as_json.stdout)
    assert (report["files"], report["longest"]) == (4, [[8, "shop/order.py:11 pay"]])


# -- streaming ---------------------------------------------------------------------------------------------------------


async def test_every_streamed_event_is_read_while_the_step_that_wrote_it_still_runs(
    workers: umbel.Runtime, tmp_path: Path
) -> None:
    run = TimedPoet(timeout=60, runtime=workers).run(topic="rain", folder=str(tmp_path))
    arrivals: dict[str, list[float]] = {"plan": [], "write": [], "polish": []}
    words: list[str] = []
    steps = iter(arrivals)
    current = next(steps)
    async for event in run.stream_events(types=[Progress, Word, Written]):
        arrivals[current].append(time.time())
        if isinstance(event, Word):
            words.append(event.word)
        if isinstance(event, Written):
            assert event.step == current
            (tmp_path / current).touch()
            current = next(steps, current)

    assert {name: len(times) for name, times in arrivals.items()} == {"plan": 2, "write": 2 + len(words), "polish": 2}
    for name, times in arrivals.items():
        assert max(times) < await run.ctx.store.get(f"{name}_ended_at")
    assert (await run).lower().split() == words


# -- parallel ----------------------------------------------------------------------------------------------------------


def test_the_best_of_all_offers_is_chosen_once_all_have_answered(workers: umbel.Runtime) -> None:
    prices = {shop: random.Random(f"{shop} umbrella").randint(500, 2500) / 100 for shop in parallel.SHOPS}
    cheapest = min(prices, key=lambda shop: prices[shop])

    result = parallel.BestOffer(timeout=60, runtime=workers).start(product="umbrella").result()

    assert result == f"{cheapest} at {prices[cheapest]:.2f} euros, we have 8 of our own"


# -- approval ----------------------------------------------------------------------------------------------------------


def test_an_expense_waits_for_the_decision_that_the_command_line_sends(workers: umbel.Runtime, tmp_path: Path) -> None:
    run = approval.Approval(timeout=60, runtime=workers).start(amount=1200)
    question = next(run.events(types=[approval.Question]))
    assert question.text == "May 1200.00 euros be spent?"
    assert not run.is_done()

    url = str(workers.settings.redis_url)
    run_cli("send", run.run_id, "Decision", "approved=true", "by=Ada", "--redis", url, state=tmp_path)

    assert run.result() == "approved by Ada"


async def test_an_order_pipeline_pays_and_delivers_each_order_in_runs_of_their_own(workers: umbel.Runtime) -> None:
    handler = orders.Pipeline(runtime=workers, timeout=None).run(orders={"pen": 5, "piano": 5000, "ink": 9})
    booked = [
        (event.order, event.what) async for event in handler.stream_events(include_children=True, types=[orders.Booked])
    ]
    assert sorted(booked) == [("ink", "9 charged"), ("ink", "sent"), ("pen", "5 charged"), ("pen", "sent")]
    result = await handler
    assert sorted(result["parcels"]) == ["parcel of ink", "parcel of pen"]
    assert result["failed"] == ["piano"]


def test_a_small_expense_needs_no_asking(workers: umbel.Runtime) -> None:
    run = approval.Approval(timeout=60, runtime=workers).start(amount=99.5)

    assert run.result() == "approved: small sums need no asking"
    assert list(run.events(types=[approval.Question])) == []


# -- programs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "typed", "expected"),
    [
        ("parallel", "", r"\w+ at \d+\.\d\d euros, we have 8 of our own"),
        (
            "streaming",
            "",
            r"(?s)\[planning .*\[writing 3 lines\]\s+the rain came .*\[polishing\].*To say what it was like",
        ),
        ("approval", "yes\n", r"May 1200\.00 euros be spent\? \[y/n\] approved by you"),
    ],
    ids=["parallel", "streaming", "approval"],
)
def test_the_example_runs_as_a_program(name: str, typed: str, expected: str) -> None:
    program = [sys.executable, str(EXAMPLES / f"{name}.py")]
    ended = subprocess.run(program, input=typed, capture_output=True, text=True, check=True, timeout=110)

    assert re.search(expected, ended.stdout)


def test_workflows_run_beside_the_tasks_of_an_existing_celery_app() -> None:
    with EmbeddedRedis.temporary() as redis:
        environment = os.environ | {"REDIS_URL": redis.url}
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--concurrency", "2"],
            cwd=EXAMPLES,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            program = [sys.executable, "celery_app.py"]
            ended = subprocess.run(
                program, cwd=EXAMPLES, env=environment, capture_output=True, text=True, check=True, timeout=110
            )
        finally:
            worker.terminate()
            worker.wait(30)

    assert ended.stdout.splitlines() == ["to ada@example.org: Welcome!", "shipped to ada@example.org"]

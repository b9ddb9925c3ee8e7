"""Removes every guard once, in a copy of the package: the tests must fail with the mutation and pass without it.

The last part of `make chaos`. The copy is made of the work tree, which itself is never changed. Each text must be
found exactly once, so an outdated entry of this table raises an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: The quick tests that must notice: single scripts, repeated scripts, and random scripts compared with a model.
SUITE = (
    "model/test_scenarios.py",
    "waiting/test_scripts_early.py",
    "engine/test_scripts_claims.py",
    "concurrency/test_scripts_slots.py",
    "joins/test_scripts_staging.py",
    "engine/test_scripts_set_back.py",
    "engine/test_idempotence.py",
    "model/test_model.py",
)
#: How many scripts each world of the model test runs.
MODEL_SCRIPTS = "2000"
LUA = "orchestration/store/lua/"
#: How many copies are tested at the same time.
AT_ONCE = 2


@dataclass(frozen=True)
class Mutation:
    """A guard, its file and its text, and the text that replaces it."""

    guard: str
    file: str
    text: str
    without: str


MUTATIONS = (
    Mutation("token check", LUA + "commit.lua", "or record.token ~= A.t then", "then"),
    Mutation("token check of an early flush", LUA + "flush.lua", "or record.token ~= A.t then", "then"),
    Mutation(
        "claim id: one of all dispatches",
        LUA + "claim.lua",
        "if record.state == 'running' and record.claim_id ~= A.c then",
        "if false then",
    ),
    Mutation("emit count", LUA + "commit.lua", "if (record.batches or 0) ~= A.batches then", "if false then"),
    Mutation("dedup of sent events", LUA + "flush.lua", "redis.call('SADD', K.sent, send.id) == 1", "true"),
    Mutation(
        "dedup of outside events", LUA + "send.lua", "if redis.call('ZSCORE', K.received, A.id) then", "if false then"
    ),
    Mutation("slot ownership", LUA + "lib/slots.lua", "if found[1] ~= wid then return false end", ""),
    Mutation("hold of a staged fan-out", LUA + "lib/apply.lua", "  scopes.count(c.sc, c.n)\n", ""),
    Mutation("waiter version", LUA + "lib/waiters.lua", "if A.wv and not none_added(unknown) then return true end", ""),
    Mutation(
        "waiter answered once",
        LUA + "lib/waiters.lua",
        "if redis.call('HEXISTS', K.waiters, field) == 0 then return true end",
        "",
    ),
    Mutation("index of waiters", LUA + "lib/waiters.lua", "~= n then return false end", "~= n then end"),
    Mutation(
        "inbox version",
        LUA + "lib/waiters.lua",
        "if A.iv and A.iv ~= counters.get('ia') + unknown then return true end",
        "",
    ),
    Mutation("inbox", LUA + "lib/waiters.lua", "redis.call('RPUSH', K.inbox, cmsgpack.pack(entry))", "1"),
    Mutation(
        "count of exchanges, for a Redis that was set back",
        LUA + "commit.lua",
        "if A.xs and (record.exchanges or 0) < A.xs then",
        "if false then",
    ),
    Mutation(
        "remembered commit",
        LUA + "commit.lua",
        "if not (known and known.t == A.t) then",
        "if true then return nil end if false then",
    ),
    Mutation("claim of a repeated commit", LUA + "commit.lua", "local wid = carry.found()", "local wid = nil"),
)


def copied(to: Path) -> Path:
    """Return a copy of the work tree that can be imported as `umbel` from its parent."""
    wanted = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    package = to / "umbel"
    for name in filter(None, wanted):
        if (ROOT / name).is_file():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, package / name)
    return package


def suite(package: Path) -> tuple[bool, str]:
    """Return whether the suite passes on this copy, and the first failed test."""
    environment = os.environ | {"PYTHONPATH": str(package.parent), "MODEL_SCRIPTS": MODEL_SCRIPTS}
    environment["UMBEL_MODEL_SEED"] = "7"
    where = subprocess.run(
        [sys.executable, "-c", "from umbel.orchestration.store import scripts; print(scripts.__file__)"],
        env=environment, cwd=package, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    if Path(where) != package / "orchestration" / "store" / "scripts.py":
        raise RuntimeError(f"The tests would import {where} and not the copy in {package}.")
    tests = [str(Path("tests", name)) for name in SUITE]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"The tests could not be executed on {package}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    found = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    return done.returncode == 0, found[1].rpartition("/")[2] if found else ""


def mutated(package: Path, mutation: Mutation) -> None:
    """Remove a guard from a copy.

    Raises:
        LookupError: Its text does not occur exactly once.
    """
    file = package / mutation.file
    text = file.read_text()
    if text.count(mutation.text) != 1:
        raise LookupError(f"{mutation.file} has {mutation.text!r} {text.count(mutation.text)} times, not once.")
    file.write_text(text.replace(mutation.text, mutation.without))


def judged(mutation: Mutation | None) -> tuple[bool, str, float]:
    """Return whether the suite passes with this mutation, the first failed test, and the duration in seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="umbel-mutant-") as folder:
        package = copied(Path(folder))
        if mutation is not None:
            mutated(package, mutation)
        is_green, first = suite(package)
    return is_green, first, time.monotonic() - began


def main() -> int:
    """Print which test notices which mutation; return 1 if one goes unnoticed, or if the tests fail without any."""
    failures = 0
    width = max(len(mutation.guard) for mutation in MUTATIONS)
    every = (None, *MUTATIONS)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for mutation, (is_green, first, seconds) in zip(every, threads.map(judged, every), strict=True):
            guard = "(none)" if mutation is None else mutation.guard
            if mutation is None:
                verdict = "green, as it should be" if is_green else f"RED WITHOUT A MUTATION: {first}"
            else:
                verdict = "NOT NOTICED" if is_green else f"noticed by {first}"
            failures += is_green == (mutation is not None)
            print(f"{guard.ljust(width)}  {seconds:5.1f} s  {verdict}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""How often an asyncio worker runs the garbage collector."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
{before}
frozen = gc.get_freeze_count()  # on Python 3.12 some objects are from the start
from umbel.workers.pool.loop import PoolLoop
loop = PoolLoop("asyncio")
print(gc.get_threshold(), gc.get_freeze_count() > frozen)
loop.end(5.0)
"""


def printed(before: str = "") -> str:
    program = PROGRAM.format(before=before)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_worker_collects_rarely_and_never_what_it_was_loaded_with() -> None:
    assert printed() == "(10000, 20, 20) True"


def test_a_collector_that_was_set_up_or_switched_off_stays_so() -> None:
    assert printed("gc.set_threshold(500, 5, 5)") == "(500, 5, 5) False"
    assert printed("gc.disable()").endswith("False")

"""Random operations on the real scripts, compared with a model; invariants are checked at the end of every run.

Set UMBEL_MODEL_SEED to replay a failure; the seed is in the summary of every test session. MODEL_SCRIPTS sets how many
scripts each world runs: a long search is `MODEL_SCRIPTS=1000000`.
"""

from __future__ import annotations

import os
import secrets

import pytest

from support.model.report import MODEL_REPORTS
from support.model.wider_operations import WiderWorld
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings

SEED = int(os.environ.get("UMBEL_MODEL_SEED") or secrets.randbelow(10**9))
WORLDS = 8
#: Scripts per world; `make chaos` has more.
SCRIPTS = int(os.environ.get("MODEL_SCRIPTS") or 8_000)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("world_no", range(WORLDS))
def test_redis_and_the_model_agree_whatever_happens(
    client: Client, settings: Settings, world_no: int, pytestconfig: pytest.Config
) -> None:
    seed = SEED + world_no
    world = WiderWorld(client, settings, seed, large=world_no == 0)
    try:
        world.run_for(SCRIPTS)
    except Exception as error:
        last = "\n  ".join(world.log[-25:])
        error.add_note(f"world {world_no}, UMBEL_MODEL_SEED={SEED}, step {world.steps}; last operations:\n  {last}")
        raise
    finally:
        pytestconfig.stash.setdefault(MODEL_REPORTS, []).append((world.store.scripts, world.started, SEED))
    assert world.store.scripts >= SCRIPTS

"""Redis users with few rights: the documented minimum is enough; with less, one sentence says what to grant."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import QUICK, Deploy
from umbel.orchestration.connection.redis_client import RIGHTS, connect

GiveRights = Callable[[str], str]


@pytest.fixture
def user_with(durable_redis_url: str) -> Iterator[GiveRights]:
    """Create a Redis user with these rights; return its URL. Key prefixes here begin with `p`."""
    operator, made = connect(durable_redis_url), []

    def user_with(rights: str) -> str:
        name, at = f"user{secrets.token_hex(4)}", urlsplit(durable_redis_url)
        operator.execute_command("ACL", "SETUSER", name, "on", ">secret", *rights.replace("umbel:", "p").split())
        made.append(name)
        return f"redis://{name}:secret@{at.hostname}:{at.port}{at.path}"

    yield user_with
    for name in made:
        operator.execute_command("ACL", "DELUSER", name)
    operator.close()


def test_a_user_with_the_fewest_rights_runs_steps_and_recovers_those_of_a_killed_worker(
    user_with: GiveRights, deploy: Deploy
) -> None:
    deployment = deploy(user_with(RIGHTS), **QUICK)
    killed = deployment.worker("killed", pool="asyncio").wait_ready()
    handler = deployment.start(flows.Held)
    deployment.await_effects("begun", run_id=handler.run_id)

    killed.kill_group()
    other = deployment.worker("other", pool="asyncio").wait_ready()
    deployment.open_gate(handler.run_id)

    assert handler.result(40) == 2  # its attempt
    assert "Connection to broker lost" not in killed.log() + other.log()
    assert "Redis does not let its settings be checked for data loss" in other.log()


@pytest.mark.parametrize("missing", ["-fcall", "-mget", "resetchannels"])
def test_a_worker_whose_user_may_not_do_what_it_needs_ends_with_what_to_grant(
    user_with: GiveRights, deploy: Deploy, missing: str
) -> None:
    worker = deploy(user_with(f"~umbel:* &umbel:* +@all {missing}"), **QUICK).worker("refused", pool="asyncio")

    eventually(lambda: worker.process.poll() is not None, "the worker has ended", seconds=40)

    assert worker.process.returncode != 0
    assert f"ACL SETUSER NAME {RIGHTS}" in worker.log()

"""Redis Sentinel: real sentinels, a primary that is killed, and runs that continue on the other server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import QUICK, Deploy
from support.processes.sentinels import Watched
from umbel import Settings
from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.connection.sentinel import Sentinels
from umbel.workers.embedded.supervisor import Supervisor


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with Supervisor() as supervisor:
        watched = Watched(tmp_path, supervisor)
        yield watched
        watched.close()


@pytest.mark.timeout(150)
@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_runs_go_on_at_the_other_server_when_the_primary_and_a_sentinel_are_killed(
    watched: Watched, deploy: Deploy, pool: str
) -> None:
    deployment = deploy(watched.url, **QUICK)
    deployment.worker("one", pool=pool).wait_ready()
    before = [deployment.start(flows.Chain, n=n, seconds=0.2) for n in range(10)]
    held = deployment.start(flows.Held)
    deployment.await_effects("begun", run_id=held.run_id)
    with connect(watched.url) as client:
        assert client.execute_command("WAIT", 1, 10_000) == 1  # wait until both have the started runs

    first, other = watched.ports
    watched.kill(watched.sentinel_ports[0])
    watched.kill(first)
    eventually(lambda: watched.failed_over_to(other), "the other server is the primary", seconds=40)

    after = [deployment.start(flows.Chain, n=n, seconds=0.0) for n in range(10, 15)]
    deployment.open_gate(held.run_id)
    assert [handler.result(60) for handler in [*before, *after]] == [n * n for n in range(15)]
    assert held.result(40) >= 1


def test_what_a_url_says() -> None:
    found = Sentinels.of(
        "rediss+sentinel://me:p%40ss@one:1,[::1]:2,three/my-main/4?ssl_ca_certs=/ca&sentinel_password=s"
    )
    assert found is not None
    assert found.nodes == (("one", 1), ("::1", 2), ("three", 26379))
    assert (found.name, found.database, found.has_tls) == ("my-main", 4, True)
    assert found.primary_url == "rediss://me:p%40ss@primary:0/4?ssl_ca_certs=/ca"
    assert found.broker_url == (
        "sentinel://me:p%40ss@one:1/4;sentinel://me:p%40ss@[::1]:2/4;sentinel://me:p%40ss@three:26379/4"
    )
    assert found.transport_options["master_name"] == "my-main"


def test_its_passwords_are_shown_nowhere() -> None:
    url = "sentinel://:secret@one:1,two:2/main/0?sentinel_password=hidden"
    shown = repr(Settings(redis_url=url))
    assert "one:1,two:2/main/0" in shown
    assert "secret" not in shown
    assert "hidden" not in shown

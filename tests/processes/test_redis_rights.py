"""Redis users with few rights: the documented minimum is enough; with less, one sentence says what to grant."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import QUICK, Deploy
from umbel import ConfigurationError
from umbel.orchestration.connection.redis_client import RIGHTS, connect
from umbel.workers.celery_app.app import create_app
from umbel.workers.doctor.examine import examine
from umbel.workers.embedded.binary import find_server

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
    assert "Traceback" not in worker.log()


@pytest.fixture
def server_without(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Start a server that lacks a command; return its URL."""
    started: list[subprocess.Popen[bytes]] = []

    def server_without(command: str) -> str:
        socket = tmp_path / "redis.sock"
        options = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", tmp_path]
        binary = find_server(search_path="")
        started.append(subprocess.Popen([binary, *options, "--rename-command", command, ""], stdout=subprocess.DEVNULL))
        eventually(socket.exists, "the server listens")
        return f"unix://{socket}"

    yield server_without
    for server in started:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("FUNCTION", "unknown command 'FUNCTION'. If"),
        ("FCALL", "unknown command 'FCALL'. If"),
        ("TIME", "umbel's functions call TIME"),
        ("SUBSCRIBE", "unknown command 'SUBSCRIBE'. If"),
    ],
)
def test_a_worker_of_a_server_with_a_command_disabled_ends_with_a_sentence_that_names_it(
    server_without: Callable[[str], str], deploy: Deploy, command: str, said: str
) -> None:
    worker = deploy(server_without(command), **QUICK).worker("refused", pool="asyncio")

    eventually(lambda: worker.process.poll() is not None, "the worker has ended", seconds=40)

    assert worker.process.returncode != 0
    assert "lacks a command that umbel needs: " in worker.log()
    assert said in worker.log()
    assert "remove that line and restart it" in worker.log()
    assert "#!lua" not in worker.log()
    assert "Traceback" not in worker.log()


@pytest.mark.parametrize("command", ["FUNCTION", "FCALL", "TIME"])
def test_a_start_and_the_doctor_name_the_command_that_is_disabled(
    server_without: Callable[[str], str], deploy: Deploy, command: str
) -> None:
    deployment = deploy(server_without(command), **QUICK)

    with pytest.raises(ConfigurationError, match="lacks a command that umbel needs"):
        deployment.start(flows.Chain, n=1)
    dangers = [each for each in examine(deployment.settings, create_app(deployment.settings)) if each.level == "danger"]
    assert [each.about for each in dangers if f"unknown command {command!r}" in each.text] == ["deployment"]
    assert not [each for each in dangers if "does not answer" in each.text]


def test_without_info_the_doctor_examines_the_rest(server_without: Callable[[str], str], deploy: Deploy) -> None:
    settings = deploy(server_without("INFO"), **QUICK).settings

    found = examine(settings, create_app(settings))

    assert [each.level for each in found if "does not let its user ask" in each.text] == ["note"]
    assert not [each for each in found if each.level == "danger"]

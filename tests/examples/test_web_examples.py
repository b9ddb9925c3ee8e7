"""The web applications of `examples/web`, as their users start them, over real sockets: a run is started, followed
while it is running, answers a question, and is followed to its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.examples.folder import EXAMPLES
from umbel import Settings
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor
from umbel.workers.local.command_process import WorkerProcess, process_environment

WEB = EXAMPLES / "web"

#: The command in each file's header, with a free port.
COMMANDS = {
    "fastapi": ["-m", "uvicorn", "--app-dir", str(WEB), "fastapi_app:app", "--port", "{port}"],
    "django": ["-m", "uvicorn", "--app-dir", str(WEB), "django_app:application", "--port", "{port}"],
    "flask": ["-m", "flask", "--app", str(WEB / "flask_app.py"), "run", "--port", "{port}"],
}


@pytest.fixture(scope="module")
def deployment() -> Iterator[tuple[Settings, Supervisor]]:
    """A Redis and a worker that has the trips."""
    with Supervisor() as supervisor, EmbeddedRedis.temporary(supervisor=supervisor) as redis:
        settings = Settings(redis_url=redis.url, drain_seconds=1)
        said: list[str] = []
        with WorkerProcess(settings, [str(WEB / "trip.py")], supervisor, say=said.append):
            yield settings, supervisor


@pytest.fixture(scope="module")
def serving(
    deployment: tuple[Settings, Supervisor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], httpx.Client]]:
    """Return a client of an application, which is started when it is first requested."""
    with ExitStack() as stack:

        @cache
        def served(name: str) -> httpx.Client:
            return stack.enter_context(_served(name, *deployment, tmp_path_factory.mktemp(name)))

        yield served


@contextmanager
def _served(name: str, settings: Settings, supervisor: Supervisor, folder: Path) -> Iterator[httpx.Client]:
    """Run the application as a process, and yield a client of it."""
    port = free_port()
    command = [sys.executable, *(word.format(port=port) for word in COMMANDS[name])]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("w+"))
        process: subprocess.Popen[bytes] = supervisor.spawn(
            command, env=process_environment(settings), output=log.fileno(), grace_seconds=1
        )
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
        try:
            while not answers(client):
                assert process.poll() is None, (folder / "log").read_text()
            yield client
        finally:
            process.terminate()
            process.wait(20)
            supervisor.forget(process.pid)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code > 0
    except httpx.ConnectError:
        return False


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield server-sent events as they arrive."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield {**fields, "data": json.loads(fields["data"])}
            fields = {}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_trip_is_started_followed_asked_and_answered(name: str, serving: Callable[[str], httpx.Client]) -> None:
    client = serving(name)
    run_id = client.post("/trips", json={"city": "Ghent"}).json()["id"]
    seen: list[dict[str, Any]] = []
    with client.stream("GET", f"/trips/{run_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for event in events(answer):
            seen.append(event["data"])
            if "320 euros" in str(event["data"]):  # the run waits, and the stream stays open
                assert client.post(f"/trips/{run_id}/choice", json={"accepted": True}).is_success

    text = json.dumps(seen)
    assert [place for place in ("trains", "hotels", "museums") if place in text] == ["trains", "hotels", "museums"]
    assert "Ghent is booked" in json.dumps(seen[-1])
    assert client.get("/trips/never-started/events").status_code == 404


@pytest.mark.parametrize("name", ["fastapi", "django"])
def test_a_browser_that_comes_back_gets_what_it_has_missed(name: str, serving: Callable[[str], httpx.Client]) -> None:
    client = serving(name)
    run_id = client.post("/trips", json={"city": "Ghent"}).json()["id"]
    with client.stream("GET", f"/trips/{run_id}/events") as answer:
        first = next(events(answer))
    rest = []
    with client.stream("GET", f"/trips/{run_id}/events", headers={"Last-Event-ID": first["id"]}) as answer:
        for event in events(answer):
            rest.append(event)
            if "320 euros" in str(event["data"]):
                client.post(f"/trips/{run_id}/choice", json={"accepted": False})

    assert "trains" in json.dumps(first)
    assert "trains" not in json.dumps(rest)
    assert "then not" in json.dumps(rest[-1])
    ids = [int(each["id"]) for each in (first, *rest)]
    assert ids == sorted(set(ids))


def test_the_protocol_and_the_console_are_mounted_in_fastapi(serving: Callable[[str], httpx.Client]) -> None:
    client = serving("fastapi")
    assert client.get("/umbel/workflows").json() == {"workflows": ["trip"]}
    assert client.get("/umbel/").headers["content-type"].startswith("text/html")
    started = client.post("/umbel/workflows/trip/run-nowait", json={"start_event": {"city": "Bruges"}}).json()
    assert client.get(f"/umbel/handlers/{started['handler_id']}").json()["workflow_name"] == "trip"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_application_is_short_and_says_how_to_start_it(name: str) -> None:
    text = (WEB / f"{name}_app.py").read_text()

    words = " ".join(COMMANDS[name][1:]).replace(str(WEB), "examples/web").partition(" --port")[0]
    assert f"$ {words}" in text
    assert len(text.splitlines()) < 70

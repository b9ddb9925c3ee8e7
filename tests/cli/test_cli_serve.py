"""`umbel serve`: a server process over real sockets, with and without its own worker."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from support.eventually import eventually
from support.processes.command_line import FLOWS, Background, Cli
from support.processes.owner import processes_mentioning
from umbel import Settings
from umbel.tasks.client.runtime import Runtime
from umbel.workers.embedded.redis_server import EmbeddedRedis


def program(arguments: str = "", more: str = "") -> str:
    """Return a program that creates its own server."""
    made = f"server = WorkflowServer({arguments})\nserver.add_workflow('squares-of-mine', Squares())\n"
    return f"{FLOWS}\nfrom umbel.server import WorkflowServer\n\n{made}{more}"


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis.temporary() as server:
        yield server.url


@pytest.fixture
def cli(tmp_path: Path, redis_url: str) -> Cli:
    (tmp_path / "flows.py").write_text(FLOWS)
    prefix = f"t{tmp_path.name[-20:]}".replace("_", ".")
    # The deployment exists already: a new one beside those of other tests would cause a warning.
    with closing(Runtime(Settings(redis_url=redis_url, key_prefix=prefix))) as runtime:
        runtime.portal.call(runtime.store.command("look at the deployment", "PING"))
    return Cli(tmp_path, UMBEL_REDIS_URL=redis_url, UMBEL_KEY_PREFIX=prefix)


def address(command: Background) -> str:
    """Return the URL that it prints."""
    command.says("the console page and the HTTP API)")
    found = re.search(r"http://127\.0\.0\.1:\d+", command.out + command.err)
    assert found is not None
    return found[0]


def test_a_server_with_a_worker_serves_a_run_and_leaves_nothing(cli: Cli) -> None:
    flows = f"{cli.folder}/flows.py"
    with cli.background("serve", flows + ":Ask", flows + ":Squares", "--port", "0", "--with-worker") as command:
        url = address(command)
        with httpx.Client(base_url=url, timeout=30) as client:
            assert client.get("/workflows").json() == {"workflows": ["Ask", "Squares"]}
            eventually(lambda: client.get("/ready").status_code == 200, "its worker is there")
            answer = client.post("/workflows/Squares/run", json={"start_event": {"count": 3}})
            assert answer.json()["result"]["value"]["result"] == {"total": 5}
            asked = client.post("/workflows/Ask/run-nowait", json={}).json()["handler_id"]
            # An event that no step's signature shows: any event that the module defines may be sent.
            sent = client.post(f"/events/{asked}", json={"event": {"type": "Approved", "value": {"by": "Ada"}}})
            assert sent.json() == {"status": "sent"}
            assert client.get("/metrics").status_code == 200
            assert client.get("/").status_code == 200
        command.process.terminate()
        done = command.wait()

    assert done.code == 0, done
    assert "Serves flows.Squares as 'Squares'" in done.err
    assert "only requests from this machine are answered" in done.err
    eventually(lambda: not processes_mentioning(flows), "nothing is left")


#: Two waits for events of which no signature says anything: one is imported by name, one is umbel's general answer.
PAYMENT = """
import umbel
from answers import Paid
from umbel import Context, StartEvent, StopEvent, Workflow, step


class Pay(Workflow):
    @step
    async def pay(self, ctx: Context, ev: StartEvent) -> StopEvent:
        paid = await ctx.wait_for_event(Paid, timeout=60)
        answer = await ctx.wait_for_event(umbel.HumanResponseEvent, timeout=60)
        return StopEvent(result=[paid.cents, answer.response])
"""


def test_clients_may_send_the_events_that_a_module_imports_and_the_general_answer(cli: Cli) -> None:
    (cli.folder / "answers.py").write_text("from umbel import Event\n\n\nclass Paid(Event):\n    cents: int\n")
    (cli.folder / "payment.py").write_text(PAYMENT)
    with cli.background("serve", "payment.py", "--port", "0", "--with-worker") as command:
        with httpx.Client(base_url=address(command), timeout=30) as client:
            run = client.post("/workflows/Pay/run-nowait", json={}).json()["handler_id"]
            refused = client.post(f"/events/{run}", json={"event": {"type": "StepFailedEvent", "value": {}}})
            assert refused.status_code == 400
            for event in (
                {"type": "Paid", "value": {"cents": 5}},
                {"type": "HumanResponseEvent", "value": {"response": "yes"}},
            ):
                assert client.post(f"/events/{run}", json={"event": event}).json() == {"status": "sent"}
            eventually(lambda: client.get(f"/handlers/{run}").json()["status"] == "completed", "both have arrived")
            assert client.get(f"/handlers/{run}").json()["result"]["value"]["result"] == [5, "yes"]
        command.process.terminate()
        assert command.wait().code == 0


def test_a_token_of_the_environment_is_asked_for_but_not_by_health(cli: Cli) -> None:
    cli.environment["UMBEL_SERVER_TOKEN"] = "let-me-in"
    with cli.background(
        "serve", "flows.py:Squares", "--port", "0", "--host", "0.0.0.0", "--log-format", "json"
    ) as command:
        command.says("the console page")
        [port] = re.findall(r"http://0\.0\.0\.0:(\d+)", command.err)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/workflows").status_code == 401
            assert client.get("/ready").status_code == 401
            assert client.get("/health").json() == {"status": "healthy"}
            allowed = client.get("/workflows", headers={"authorization": "Bearer let-me-in"})
            assert allowed.json() == {"workflows": ["Squares"]}
        command.interrupt()
        done = command.wait()

    assert done.code == 0, done
    assert "let-me-in" not in done.err
    assert all(json.loads(line)["message"] for line in done.err.splitlines())


def test_what_is_logged_before_the_server_listens_has_its_format_too(cli: Cli, redis_url: str) -> None:
    cli.environment["UMBEL_KEY_PREFIX"] = "another"
    with cli.background("serve", "flows.py:Squares", "--port", "0", "--log-format", "json") as command:
        command.says("the console page")
        command.interrupt()
        done = command.wait()

    said = [json.loads(line) for line in done.err.splitlines()]
    assert "This begins a new deployment with key prefix 'another'" in said[0]["message"]


def test_a_module_with_a_server_of_its_own_is_served_as_it_says(cli: Cli) -> None:
    (cli.folder / "mine.py").write_text(program("token='mine'"))
    with (
        cli.background("serve", "mine.py", "--port", "0") as command,
        httpx.Client(base_url=address(command)) as client,
    ):
        assert client.get("/workflows").status_code == 401
        assert client.get("/workflows", headers={"authorization": "Bearer mine"}).json() == {
            "workflows": ["squares-of-mine"]
        }


def test_a_server_whose_worker_ends_ends_too_and_says_why(cli: Cli) -> None:
    with cli.background("serve", f"{cli.folder}/flows.py:Squares", "--port", "0", "--with-worker") as command:
        command.says(" ready.")
        [worker] = [pid for pid in processes_mentioning(f"{cli.folder}/flows.py") if " worker " in command_line(pid)]
        os.kill(worker, signal.SIGKILL)
        done = command.wait()

    assert done.code == 1
    assert "Error: The worker process ended with code -9." in done.err


def test_a_killed_server_takes_its_worker_with_it(cli: Cli) -> None:
    flows = f"{cli.folder}/flows.py"
    with cli.background("serve", f"{flows}:Squares", "--port", "0", "--with-worker") as command:
        command.says(" ready.")
        command.process.kill()
        command.wait()

    eventually(lambda: not processes_mentioning(flows), "nothing is left")


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_public_address_needs_a_token(cli: Cli) -> None:
    error = cli.error("serve", "flows.py:Squares", "--host", "0.0.0.0", "--port", "0")

    assert "would be open to everyone who can reach 0.0.0.0" in error


def test_a_token_that_the_programs_own_server_would_not_ask_for_is_an_error(cli: Cli) -> None:
    (cli.folder / "open.py").write_text(program())

    assert "would not require it" in cli.error("serve", "open.py", "--token", "x")


def test_an_empty_token_is_no_token_that_was_forgotten_but_an_error(cli: Cli) -> None:
    assert "The server's token is empty" in cli.error("serve", "flows.py:Squares", "--token", "")


def test_a_port_that_is_taken_is_reported(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        error = cli.error("serve", "flows.py:Squares", "--port", str(port))

    assert f"The server cannot listen on 127.0.0.1:{port}: Address already in use" in error


def test_several_servers_have_to_be_distinguished(cli: Cli) -> None:
    (cli.folder / "two.py").write_text(program(more="other = WorkflowServer()\n"))

    assert "2 servers are defined in 'two.py'. Choose one" in cli.error("serve", "two.py")


def test_a_server_without_workflows_is_reported(cli: Cli) -> None:
    (cli.folder / "bare.py").write_text("from umbel.server import WorkflowServer\nserver = WorkflowServer()\n")

    assert "has no workflows" in cli.error("serve", "bare.py:server")


def test_a_server_needs_the_redis_of_its_deployment(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(FLOWS)

    assert "use `umbel dev TARGET`" in Cli(tmp_path).error("serve", "flows.py:Squares")

"""The programs of the guides on two servers and two workers, of which one each is killed during the runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from support.docs.pages import blocks
from support.eventually import eventually
from support.processes.driving import Deploy, Deployment
from umbel.workers.embedded.configuration import free_port

#: Module -> the guide with its program, the workflow, its start event and result; None is checked separately.
PROGRAMS: dict[str, tuple[str, str, dict[str, Any], Any]] = {
    "chat": ("sessions", "Chat", {"text": "Tea"}, None),
    "offers": ("child-workflows", "Offer", {"wanted": ["pen", "ink"]}, 16),
    "reports": ("child-workflows", "Report", {"texts": ["Ink is wet. It dries.", "Paper."]}, ["Ink is wet", "Paper"]),
    "races": ("cancelling-steps", "Fastest", {}, "memory"),
}
#: The number of runs of each.
RUNS = 4


class Guides:
    """Two workers and two servers with all programs."""

    def __init__(self, deployment: Deployment, stack: ExitStack) -> None:
        for module, (guide, workflow, _, _) in PROGRAMS.items():
            programs = blocks(f"docs/guides/{guide}.md")
            text = next(block.text for block in programs if f"class {workflow}(Workflow)" in block.text)
            (deployment.folder / f"guide_{module}.py").write_text(text)
        files = [f"{deployment.folder}/guide_{module}.py" for module in PROGRAMS]
        self.workers = [deployment.worker(name, *files, pool="asyncio") for name in ("one", "two")]
        served = [f"{file}:{PROGRAMS[module][1]}" for file, module in zip(files, PROGRAMS, strict=True)]
        ports = [free_port(), free_port()]
        self.servers = [
            deployment.launch(f"server {port}", "umbel.workers.cli", "serve", *served, "--port", str(port))
            for port in ports
        ]
        self.clients = [stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}")) for port in ports]
        for worker in self.workers:
            worker.wait_ready()
        for client in self.clients:
            eventually(lambda client=client: is_healthy(client), "the server answers")
        self.names = {name.rpartition(".")[2].lower(): name for name in self.get(1, "/workflows")["workflows"]}

    def get(self, server: int, path: str) -> Any:
        """Return a server's response."""
        return self.clients[server].get(path, timeout=30).json()

    def start(self, server: int, module: str, number: int) -> str:
        """Start a run, or find the one that an earlier call started; return its path."""
        _, workflow, event, _ = PROGRAMS[module]
        body: dict[str, Any] = {"start_event": event}
        if module == "chat":
            body = {"start_event": {"text": f"Tea {number}"}, "session_id": "ada"}
        path, key = f"/workflows/{self.names[workflow.lower()]}/run-nowait", {"Idempotency-Key": f"{module} {number}"}
        data = self.clients[server].post(path, json=body, headers=key, timeout=30).json()
        return f"/sessions/ada/runs/{data['run_id']}" if module == "chat" else f"/handlers/{data['run_id']}"

    def result(self, address: str) -> Any:
        """Wait until a run has ended, and return its result, from the second server."""

        def ended() -> Any:
            data = self.get(1, address)
            return data if data["status"] not in ("running", "queued") else None

        data = eventually(ended, f"{address} ends")
        assert data["status"] == "completed", data
        return data["result"]["value"]["result"]


def is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def guides(deploy: Deploy) -> Iterator[Guides]:
    with ExitStack() as stack:
        yield Guides(deploy(), stack)


def test_every_run_has_its_result_when_a_worker_and_a_server_are_killed(guides: Guides) -> None:
    starts = [(module, number) for number in range(RUNS) for module in PROGRAMS]
    first = {start: guides.start(0, *start) for start in starts[: len(starts) // 2]}
    guides.workers[0].kill_group()
    guides.servers[0].kill_group()

    addresses = {start: guides.start(1, *start) for start in starts}

    assert {start: addresses[start] for start in first} == first
    results = {start: guides.result(address) for start, address in addresses.items()}
    for (module, number), result in results.items():
        if module != "chat":
            assert result == PROGRAMS[module][3], (module, number)
    answers = [re.fullmatch(r"Tea (\d)\? That is question (\d+)\.", results["chat", n]) for n in range(RUNS)]
    assert [int(answer[1]) for answer in answers if answer] == [*range(RUNS)]
    places = [int(answer[2]) for answer in answers if answer]
    assert places == sorted(set(places))  # a killed attempt may have recorded its question before

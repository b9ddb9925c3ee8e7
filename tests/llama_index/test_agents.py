"""LlamaIndex's own agents behave on umbel as they do in LlamaIndex."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import httpx
import pytest
from llama_agents.client import WorkflowClient

from support import TESTS
from support.eventually import eventually
from support.processes.driving import Deploy, Deployment, WorkerUnderTest

PROGRAM = TESTS / "support" / "llama_index" / "agents.py"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(TESTS), "PYTHONWARNINGS": "ignore"}
#: Runs an unchanged program as a client of the deployment that UMBEL_REDIS_URL names.
CLIENT = (
    "import runpy, sys; sys.argv = sys.argv[1:]; import umbel.llama_index; umbel.llama_index.install(); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)

SCENARIOS = [
    "two_tools_at_once",
    "a_second_turn",
    "a_memory_of_the_caller",
    "a_turn_after_a_snapshot",
    "a_handoff",
    "a_human_in_a_tool",
    "reasoning_and_acting",
    "writing_code",
    "structured_output",
    "too_many_iterations",
    "early_stopping",
    "errors_of_tools",
    "no_streaming",
    "state_in_the_prompt",
]

#: What LlamaIndex keeps of a conversation between two runs depends on the pydantic release: with 2.14, nothing.
CONVERSATION: dict[str, Any] = {
    "events": [
        ["AgentInput", ["system: Be kind.", "user: my name is Ada", "assistant: Hello Ada", "user: who am I"]],
        ["AgentStream", "Ada"],
        ["AgentStream", ""],
        ["AgentOutput", "assistant: Ada"],
        ["StopEvent", None],
    ],
    "memory": ["user: my name is Ada", "assistant: Hello Ada", "user: who am I", "assistant: Ada"],
}


#: Deliberate differences: see docs/deviations.md.
KNOWN = {
    "a_second_turn": CONVERSATION,
    "a_turn_after_a_snapshot": CONVERSATION,
}


def printed(output: str) -> dict[str, Any]:
    """Return what a run of the program has reported, by scenario."""
    found: dict[str, Any] = {}
    for line in output.splitlines():
        found |= json.loads(line) if line.startswith("{") else {}
    return found


def expected(in_llama_index: dict[str, Any], scenario: str) -> dict[str, Any]:
    """Return what a scenario must report on umbel."""
    report = comparable(in_llama_index[scenario] | KNOWN.get(scenario, {}))
    if scenario == "a_handoff":
        # LlamaIndex also adds to the conversation what the agent adds to the message that it passes to its model.
        report["memory"][0] = "user: write about ships"
        report["events"][8][1][0] = "user: write about ships"
    return report


def executed(*command: str) -> dict[str, Any]:
    """Return the program's report when it is started with this command."""
    done = subprocess.run([*command, str(PROGRAM)], env=ENVIRONMENT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return printed(done.stdout)


@pytest.fixture(scope="module")
def in_llama_index() -> dict[str, Any]:
    """The report of LlamaIndex itself."""
    return executed(sys.executable)


@pytest.fixture(scope="module")
def in_process() -> dict[str, Any]:
    """The report of `umbel exec --llama-index`."""
    return executed(sys.executable, "-m", "umbel.workers.cli", "exec", "--llama-index")


@pytest.fixture(scope="module")
def deployment(deploy_for_module: Deploy) -> Deployment:
    """A deployment for agents."""
    return deploy_for_module()


@pytest.fixture(scope="module")
def on_killed_workers(deployment: Deployment) -> dict[str, Any]:
    """The report of two workers that are both killed while every model is being called, and replaced."""
    more = {"HOLD_CALLS": str(deployment.folder), "PYTHONWARNINGS": "ignore"}

    def worker(name: str) -> WorkerUnderTest:
        options = ("--llama-index", str(PROGRAM), "--name", name)
        return deployment.launch(name, "umbel.workers.cli", "worker", *options, more=more)

    def held() -> list[str]:
        return [mark.read_text() for mark in deployment.folder.glob("held-*")]

    workers = [worker(name).wait_ready() for name in ("one", "two")]
    environment = deployment.environment | {"PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", CLIENT, str(PROGRAM)]
    client = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        eventually(lambda: len(held()) == len(SCENARIOS), "every model is asked, and none answers")
        for killed in workers:
            killed.kill_group()
            worker(f"{killed.name} again")
        output, _ = client.communicate(timeout=110)
    finally:
        client.kill()
        client.communicate()
    assert {int(pid) for pid in held()} == {killed.pid for killed in workers}
    return printed(output)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_agent_does_in_one_process_what_it_does_in_llama_index(
    scenario: str, in_llama_index: dict[str, Any], in_process: dict[str, Any]
) -> None:
    assert comparable(in_process[scenario]) == expected(in_llama_index, scenario)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_agent_whose_worker_is_killed_does_what_it_does_in_llama_index(
    scenario: str, in_llama_index: dict[str, Any], on_killed_workers: dict[str, Any]
) -> None:
    report = comparable(on_killed_workers[scenario])
    # Events that a step published before it was killed stay published.
    report["events"] = [next(same) for _, same in groupby(report["events"])]
    assert report == expected(in_llama_index, scenario)


@pytest.mark.usefixtures("on_killed_workers")  # the workers that replaced them execute the agents
async def test_agents_are_served_to_clients_of_llama_index_under_their_names(deployment: Deployment) -> None:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    command = ("umbel.workers.cli", "serve", "--llama-index", str(PROGRAM), "--port", str(port))
    server = deployment.launch("server", *command)
    eventually(lambda: f":{port}" in server.log(), "the server listens")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        client = WorkflowClient(httpx_client=http)
        assert {"counter", "keeper"} <= set((await client.list_workflows()).workflows)

        handler = await client.run_workflow_nowait("counter", start_event={"user_msg": "please compute"})
        events = [event async for event in client.get_workflow_events(handler.handler_id)]
        done = await client.wait_for_handler(handler.handler_id, poll_interval=0.05)

    results = [event.value["tool_output"] for event in events if event.type == "ToolCallResult"]
    assert sorted(each["raw_output"] for each in results) == [5, 6]
    assert done.status == "completed"
    assert done.result is not None
    [said] = done.result.value["result"]["response"]["blocks"]
    assert said["text"] == "They are 5 and 6."


def comparable(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report with concurrent tool calls in a fixed order."""
    report = report | {"tool_calls": sorted(report.get("tool_calls", ()), key=str)}
    return report | {name: in_order(report[name]) for name in ("events", "tool_calls", "memory") if name in report}


def in_order(entries: Sequence[Any]) -> list[Any]:
    """Sort adjacent entries about tools; likewise the messages of an event."""
    whole: list[Any] = [[e[0], in_order(e[1])] if isinstance(e, list) and e[0] == "AgentInput" else e for e in entries]
    parts = groupby(whole, key=is_about_a_tool)
    return [each for is_tool, part in parts for each in (sorted(part, key=str) if is_tool else part)]


def is_about_a_tool(entry: Any) -> bool:
    """Return whether it is a tool's call or result, or the message about it that a model receives."""
    first = entry if isinstance(entry, str) else entry[0]
    return first.startswith(("Tool", "tool:"))

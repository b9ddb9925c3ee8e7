"""Sessions when processes are killed: each answer belongs to its question, and no run loses its place in line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.eventually import eventually
from support.flows.sessions import Chat
from support.processes.driving import Deploy, Deployment, assert_committed_once, descendants
from umbel import Session, attach, sessions

FLOWS = "support.flows.sessions"


@pytest.fixture
def chatting(deploy: Deploy) -> Iterator[Deployment]:
    """Two workers, with the client's runtime as the default one."""
    deployment = deploy()
    workers = [deployment.worker(name, FLOWS, pool="asyncio") for name in ("one", "two")]
    for worker in workers:
        worker.wait_ready()
    with deployment.runtime.registering():
        yield deployment


def kill_holder(deployment: Deployment, run_id: str) -> None:
    """Kill the worker that executes the second step of a run."""
    pid = deployment.await_effects("answering", run_id=run_id)[-1]["pid"]
    next(each for each in deployment.workers if pid in descendants(each.pid) | {each.pid}).kill_group()


@pytest.mark.parametrize("callers", [1, 2, 20])
def test_each_answer_belongs_to_its_question_when_a_worker_is_killed(chatting: Deployment, callers: int) -> None:
    each_asks = max(2, 20 // callers)
    held = Chat(timeout=None).run(session="ada", text="held", gate="ada")

    def ask(caller: int) -> list[tuple[str, Any]]:
        texts = [f"{caller}.{n}" for n in range(each_asks)]
        return [(text, Session("ada").run(Chat(timeout=None), text=text).result(timeout=60)) for text in texts]

    with ThreadPoolExecutor(callers) as pool:
        asked = pool.map(ask, range(callers))
        eventually(lambda: len(Session("ada").waiting()) >= callers, "all callers wait for their turn")
        kill_holder(chatting, held.run_id)
        chatting.open_gate("ada")
        answers = [answer for each in asked for answer in each]

    assert held.result(timeout=60) == "answer to held"
    assert answers == [(text, f"answer to {text}") for text, _ in answers]
    assert len(answers) == callers * each_asks
    said = Session("ada").state().asked
    assert sorted(said) == sorted(["held", *(text for text, _ in answers)])
    for caller in range(callers):
        of_caller = [text for text in said if text.startswith(f"{caller}.")]
        assert of_caller == [f"{caller}.{n}" for n in range(each_asks)]
    for handler in Session("ada").runs():
        assert_committed_once(chatting.executions(handler.run_id))
    assert sessions("ada")[0].status == "idle"


def test_runs_have_their_turns_in_the_order_of_the_calls_when_worker_after_worker_is_killed(
    chatting: Deployment,
) -> None:
    handlers = [Chat(timeout=None).run(session="ada", text=f"{n}", gate=f"{n}") for n in range(6)]
    for n, handler in enumerate(handlers):
        if n in (1, 3):
            kill_holder(chatting, handler.run_id)
            chatting.worker(f"more {n}", FLOWS, pool="asyncio").wait_ready()
        chatting.open_gate(f"{n}")

    assert [handler.result(timeout=60) for handler in handlers] == [f"answer to {n}" for n in range(6)]
    assert Session("ada").state().asked == [f"{n}" for n in range(6)]


def test_a_killed_client_costs_nobody_a_place(chatting: Deployment) -> None:
    held = Chat(timeout=None).run(session="ada", text="held", gate="ada")
    client = chatting.launch("client", "support.programs.session_client", "ada", "from the client")
    eventually(lambda: len(Session("ada").waiting()) == 1, "the client's run waits")
    client.process.send_signal(signal.SIGKILL)
    client.process.wait()
    last = Chat(timeout=None).run(session="ada", text="last")
    (of_client, _) = Session("ada").waiting()

    chatting.open_gate("ada")

    assert held.result(timeout=60) == "answer to held"
    assert last.result(timeout=60) == "answer to last"
    assert attach(of_client.run_id).result(timeout=60) == "answer to from the client"
    assert Session("ada").state().asked == ["held", "from the client", "last"]

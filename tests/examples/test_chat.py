"""The chat of `examples/chat`: two servers and two workers, of which one each is killed during an answer."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from support.eventually import eventually
from support.examples.folder import EXAMPLES
from support.processes.driving import Deploy, Deployment, WorkerUnderTest
from umbel.orchestration.inspection.unfinished import unfinished
from umbel.workers.embedded.configuration import free_port

CHAT = EXAMPLES / "chat"


class Chat:
    """A deployment of the chat: servers with their clients, and workers."""

    def __init__(self, deployment: Deployment, stack: ExitStack) -> None:
        self.deployment = deployment
        self.workers = [deployment.worker(name, str(CHAT / "conversation.py"), pool="asyncio") for name in "ab"]
        self.servers: list[WorkerUnderTest] = []
        self.clients: list[httpx.Client] = []
        for name in ("first", "second"):
            port = free_port()
            server = deployment.launch(name, "uvicorn", "--app-dir", str(CHAT), "app:app", "--port", str(port))
            self.servers.append(server)
            self.clients.append(stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)))
        for worker in self.workers:
            worker.wait_ready()
        for client in self.clients:
            eventually(lambda client=client: is_there(client), "the server answers")

    def conversation(self, name: str) -> list[dict[str, str]]:
        """Return the messages and answers."""
        found: list[dict[str, str]] = self.clients[1].get(f"/chats/{name}").json()
        return found

    def answer(self, name: str, turn: str) -> str:
        """Return the whole answer of a turn, from the second server."""
        with self.clients[1].stream("GET", f"/chats/{name}/turns/{turn}/events") as stream:
            *_, (_, last) = events(stream)
        return str(last["value"]["result"])


def is_there(client: httpx.Client) -> bool:
    try:
        return client.get("/chats/nobody").json() == []
    except httpx.ConnectError:
        return False


def events(answer: httpx.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield server-sent events as they arrive, with their numbers."""
    number = -1
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "data":
            yield number, json.loads(value)


@pytest.fixture
def chat(deploy: Deploy) -> Iterator[Chat]:
    with ExitStack() as stack:
        yield Chat(deploy(), stack)


def test_an_answer_outlives_the_server_that_streams_it_and_the_worker_that_gives_it(chat: Chat) -> None:
    first, second = chat.clients
    turn = first.post("/chats/ada", json={"text": "hello … …"}).json()["turn"]
    with first.stream("GET", f"/chats/ada/turns/{turn}/events") as stream:
        number, event = next(events(stream))
        assert event["value"]["text"] == "1."
        chat.servers[0].process.send_signal(signal.SIGKILL)
    [executing] = chat.deployment.store.call(unfinished, chat.deployment.store, turn)
    next(worker for worker in chat.workers if executing.owner.startswith(worker.name)).kill_group()

    with second.stream("GET", f"/chats/ada/turns/{turn}/events", headers={"Last-Event-ID": str(number)}) as stream:
        rest = list(events(stream))

    assert rest[0][0] > number
    answer = "1. You said: hello … … and so on and so on"
    assert rest[-1][1]["value"]["result"] == answer
    assert chat.conversation("ada") == [{"said": "hello … …", "answer": answer}]


def test_what_is_said_meanwhile_interrupts_and_gets_its_own_answer(chat: Chat) -> None:
    first, second = chat.clients
    long = "tell me a long story" + " …" * 30
    turn = first.post("/chats/ada", json={"text": long}).json()["turn"]
    with first.stream("GET", f"/chats/ada/turns/{turn}/events") as stream:
        next(events(stream))

    short = second.post("/chats/ada", json={"text": "stop"}).json()["turn"]

    assert chat.answer("ada", short) == "1. You said: stop"
    assert chat.conversation("ada") == [{"said": "stop", "answer": "1. You said: stop"}]


def test_an_answer_is_given_again_and_a_conversation_branches(chat: Chat) -> None:
    client = chat.clients[0]
    assert client.post("/chats/ada/regenerate").status_code == 404
    turns = []
    for text in ("tea", "milk"):
        turns.append(client.post("/chats/ada", json={"text": text}).json()["turn"])
        chat.answer("ada", turns[-1])

    again = client.post("/chats/ada/regenerate").json()["turn"]

    assert chat.answer("ada", again) == "2. You said: milk"
    assert [each["said"] for each in chat.conversation("ada")] == ["tea", "milk"]
    assert client.post("/chats/ada/fork", json={"name": "ada-2", "after": turns[0]}).status_code == 200
    chat.answer("ada-2", client.post("/chats/ada-2", json={"text": "sugar"}).json()["turn"])
    assert [each["said"] for each in chat.conversation("ada-2")] == ["tea", "sugar"]
    assert [each["said"] for each in chat.conversation("ada")] == ["tea", "milk"]
    assert client.post("/chats/ada/fork", json={"name": "ada-2", "after": turns[0]}).status_code == 409


def test_a_turn_that_goes_on_is_taken_back_and_given_again(chat: Chat) -> None:
    client = chat.clients[0]
    turn = client.post("/chats/ada", json={"text": "slowly" + " …" * 10}).json()["turn"]
    with client.stream("GET", f"/chats/ada/turns/{turn}/events") as stream:
        next(events(stream))

    again = client.post("/chats/ada/regenerate").json()["turn"]

    assert chat.answer("ada", again).startswith("1. You said: slowly")
    assert len(chat.conversation("ada")) == 1

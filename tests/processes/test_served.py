"""Server processes on one Redis, any of which may be killed: the published client notices only a cut connection."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections import Counter
from pathlib import Path

import httpx
import pytest
from llama_agents.client import WorkflowClient

from support.eventually import eventually
from support.flows.served import Counting, Reply, Ticking
from support.processes.driving import Deploy, Deployment
from support.processes.replicas import Balancer, Replica
from umbel import attach
from umbel.orchestration.sessions.look import current_run
from umbel.server import sse_events


def client_of(http: httpx.AsyncClient) -> WorkflowClient:
    return WorkflowClient(httpx_client=http)


def calling(address: str, timeout: float = 30) -> httpx.AsyncClient:
    """Return a client with a connection per request, so that a balancer chooses again each time."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=address, timeout=timeout, limits=limits, verify=False)


@pytest.fixture(scope="module")
def deployment(deploy_for_module: Deploy) -> Deployment:
    """One asyncio worker that can execute all these workflows."""
    made = deploy_for_module()
    made.worker("w", "support.flows.served", pool="asyncio", concurrency=10).wait_ready()
    return made


async def test_a_client_that_follows_a_run_loses_nothing_when_its_server_is_killed(deployment: Deployment) -> None:
    first, second = Replica(deployment, "a1"), Replica(deployment, "a2")
    balancer = Balancer([first, second])
    async with balancer.listening() as address, calling(address) as http:
        client = client_of(http)
        handler = await client.run_workflow_nowait(
            "ticking", handler_id="followed", start_event={"many": 40, "pause": 0.005}
        )
        stream = client.get_workflow_events(handler.handler_id)
        seen: list[tuple[int | str, int]] = []
        async for event in stream:
            if event.type != "Tick":
                break
            seen.append((stream.last_sequence, event.value["n"]))
            if event.value["n"] == 15:
                first.kill()
                deployment.open_gate("half")

        assert [n for _, n in seen] == list(range(40))
        assert len({number for number, _ in seen}) == 40
        assert balancer.used[-1] is second
        # Everything that one server knows, the other one knows too.
        done = await client.get_handler("followed")
        assert (done.status, done.result and done.result.value) == ("completed", {"result": 40})
        assert [effect["what"] for effect in deployment.effects("tick", handler.run_id)] == ["tick"]


async def test_every_call_of_the_client_works_against_either_server(deployment: Deployment) -> None:
    first, second = Replica(deployment, "b1"), Replica(deployment, "b2")
    async with calling(first.address) as one, calling(second.address) as two:
        here, there = client_of(one), client_of(two)
        assert (await here.is_healthy()).status == (await there.is_healthy()).status == "healthy"
        assert (await there.list_workflows()).workflows == ["ticking", "counting", "held", "asking"]

        asked = await here.run_workflow_nowait("asking")
        async for event in there.get_workflow_events(asked.handler_id):
            if event.type == "Question":
                await there.send_event(asked.handler_id, Reply(text="yes"))
        assert event.value == {"result": "yes"}
        assert (await here.get_handler(asked.handler_id)).status == "completed"

        counts = [await each.run_workflow("counting", handler_id="shared") for each in (here, there, here)]
        assert [each.result.value["result"] for each in counts if each.result] == [1, 2, 3]
        listed = await there.get_handlers(status=["completed"], workflow_name=["counting"])
        assert [each.handler_id for each in listed.handlers] == ["shared"]

        left = await there.run_workflow_nowait("asking", handler_id="left")
        with pytest.raises(httpx.HTTPStatusError, match="Handler 'left' is already running"):
            await here.run_workflow_nowait("asking", handler_id="left")
        assert (await here.cancel_handler(left.handler_id)).status == "cancelled"
        assert (await there.cancel_handler(left.handler_id, purge=True)).status == "deleted"
        assert (await one.get(f"/handlers/{left.handler_id}")).status_code == 404


async def test_of_many_requests_to_two_servers_one_continues_the_handler(deployment: Deployment) -> None:
    replicas = [Replica(deployment, "c1"), Replica(deployment, "c2")]
    async with calling(replicas[0].address) as one, calling(replicas[1].address) as two:
        for lap in (1, 2):
            body = {"handler_id": "raced", "start_event": {"gate": f"raced-{lap}"}}
            answers = await asyncio.gather(
                *(each.post("/workflows/counting/run-nowait", json=body) for each in [one, two] * 10)
            )
            assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 19}
            [winner] = [answer.json()["run_id"] for answer in answers if answer.status_code == 200]
            assert deployment.runtime.portal.call(current_run(deployment.runtime.store, "raced")) == winner
            deployment.open_gate(f"raced-{lap}")
            assert await deployment.runtime.attach(winner) == lap


async def test_a_client_that_goes_away_does_not_cancel_its_run(deployment: Deployment) -> None:
    replica = Replica(deployment, "d1")
    async with calling(replica.address) as http:
        waiting = asyncio.create_task(
            http.post("/workflows/counting/run", json={"handler_id": "left-alone", "start_event": {"gate": "alone"}})
        )
        while (await http.get("/handlers/left-alone")).status_code != 202:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        deployment.open_gate("alone")
        done = await client_of(http).wait_for_handler("left-alone", poll_interval=0.02, backoff="constant")

    assert done.result is not None
    assert done.result.value == {"result": 1}


async def test_a_server_that_is_asked_to_end_cuts_its_streams_and_readers_continue_elsewhere(
    deployment: Deployment,
) -> None:
    first, second = Replica(deployment, "e1"), Replica(deployment, "e2")
    balancer = Balancer([first, second])
    async with balancer.listening() as address, calling(address) as http:
        client = client_of(http)
        asked = await client.run_workflow_nowait("asking")
        seen = []
        async for event in client.get_workflow_events(asked.handler_id):
            seen.append(event.type)
            if event.type == "Question":
                first.process.terminate()
                await asyncio.to_thread(first.process.process.wait, 30)
                await client.send_event(asked.handler_id, Reply(text="after"))

    assert seen == ["Question", "StopEvent"]
    assert first.process.process.returncode is not None


async def test_a_run_without_a_worker_is_reported_and_continues_when_one_starts(deploy: Deploy) -> None:
    deployment = deploy()
    replica = Replica(deployment, "lonely", "no_worker_seconds=0.5")
    async with calling(replica.address) as http:
        answer = await http.post("/workflows/counting/run", json={"handler_id": "h"})

        assert answer.status_code == 503
        data = answer.json()
        assert (data["handler_id"], data["status"]) == ("h", "running")
        assert "No live worker serves 'support.flows.served.Counting'" in data["error"]
        assert (await http.get("/handlers/h")).json()["error"] == data["error"]

        deployment.worker("late", "support.flows.served", pool="asyncio", concurrency=2).wait_ready()
        done = await client_of(http).wait_for_handler("h", poll_interval=0.05, backoff="constant")
        assert (done.status, done.error) == ("completed", None)


def test_a_run_cannot_be_called_as_a_handler_is(deployment: Deployment) -> None:
    runtime = deployment.runtime
    flow = Counting(runtime=runtime, timeout=None)
    with runtime.registering():
        runtime.start(flow, flow.start_event_class(), session="taken").result(timeout=30)
        assert attach(runtime.portal.call(current_run(runtime.store, "taken"))).status() == "completed"

    with pytest.raises(RuntimeError, match="already exists"):
        flow.run(run_id="taken")


class Raw:
    """A connection that reads a run's events on demand, with small kernel buffers."""

    def __init__(self, port: int, handler_id: str, after: int = -1) -> None:
        self._port, self._handler_id = port, handler_id
        self.last = after

    async def open(self) -> None:
        """Send the request, and read the response headers."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self._port))
        self._in, self._out = await asyncio.open_connection(sock=connection, limit=1 << 17)
        ask = f"GET /events/{self._handler_id}?after_sequence={self.last} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        self._out.write(ask.encode())
        await self._in.readuntil(b"\r\n\r\n")
        self._out.transport.pause_reading()  # type: ignore[attr-defined]

    async def read(self) -> list[int]:
        """Read everything available; return the numbers of the ticks."""
        self._out.transport.resume_reading()  # type: ignore[attr-defined]
        found = []
        number = -1
        while (line := await self._in.readline()).endswith(b"\n"):
            if line.startswith(b"id: "):
                number = int(line[4:])
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                self.last = number
                if event["type"] != "Tick":
                    return found
                found.append(event["value"]["n"])
        return found

    def close(self) -> None:
        """Close the connection."""
        self._out.transport.abort()


async def test_stalled_readers_cost_little_and_can_resume(deployment: Deployment) -> None:
    """Together, the readers would have to be sent 96 MB."""
    replica = Replica(deployment, "f1")
    many, size, readers = 120, 20_000, 40
    async with calling(replica.address) as http:
        body = {"start_event": {"many": many, "size": size, "pause": 0.001, "gate": "wide"}, "handler_id": "wide"}
        await http.post("/workflows/ticking/run-nowait", json=body)
        slow = [Raw(replica.port, "wide") for _ in range(readers)]
        for reader in slow:
            await reader.open()
        before = resident_bytes(replica.process.pid)
        deployment.open_gate("wide")
        awake = Raw(replica.port, "wide")
        await awake.open()

        assert await awake.read() == list(range(many))
        assert resident_bytes(replica.process.pid) - before < 50e6
        for reader in slow[:3]:
            assert await reader.read() == list(range(many))
        for reader in (*slow, awake):
            reader.close()


async def test_a_reader_that_takes_nothing_for_long_is_cut_off_and_may_come_back(deployment: Deployment) -> None:
    replica = Replica(deployment, "i1", "slow_reader_seconds=0.5")
    many = 200
    async with calling(replica.address) as http:
        body = {"start_event": {"many": many, "size": 50_000, "gate": "cut"}, "handler_id": "cut"}
        await http.post("/workflows/ticking/run-nowait", json=body)
        slow = Raw(replica.port, "cut")
        await slow.open()
        deployment.open_gate("cut")
        await asyncio.to_thread(eventually, lambda: "read nothing for 0.5 s" in replica.process.log(), "it is cut off")

        seen = await slow.read()
        slow.close()
        assert 0 < len(seen) < many
        back = Raw(replica.port, "cut", slow.last)
        await back.open()
        assert seen + await back.read() == list(range(many))
        back.close()


async def test_what_a_step_publishes_is_read_while_it_still_runs(deployment: Deployment) -> None:
    replica = Replica(deployment, "g1")
    async with calling(replica.address) as http:
        client = client_of(http)
        flow = {"gate": "held"}
        handler = await client.run_workflow_nowait("held", start_event=flow)
        async for event in client.get_workflow_events(handler.handler_id):
            if event.type == "Tick":
                assert (await client.get_handler(handler.handler_id)).status == "running"
                deployment.open_gate("held")

    assert event.type == "StopEvent"


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_reader_that_comes_too_late_for_some_events_is_warned(deploy: Deploy) -> None:
    deployment = deploy(stream_max_events=10)
    deployment.worker("w", "support.flows.served", pool="asyncio", concurrency=2).wait_ready()
    deployment.open_gate("half")
    handler = deployment.start(Ticking, many=500)
    await asyncio.to_thread(handler.result, 40)

    first, second, *_ = [frame async for frame in sse_events(handler)]

    assert re.match(r": events from number [01] on are no longer kept\n\n", first)
    assert second.startswith("id: ")


async def test_a_run_that_is_purged_while_a_step_runs_leaves_nothing_and_harms_no_other_run(deploy: Deploy) -> None:
    deployment = deploy()
    worker = deployment.worker("w", "support.flows.served", pool="asyncio", concurrency=5).wait_ready()
    replica = Replica(deployment, "h1")
    client_redis = deployment.store.client

    def left() -> list[bytes]:
        found = client_redis.scan_iter(match=f"{deployment.settings.key_prefix}:*purged*", count=1000)
        return [key for key in found if b":answer:" not in key]

    async with calling(replica.address) as http:
        client = client_of(http)
        run = {"start_event": {"gate": "purged"}}
        handler = await client.run_workflow_nowait("counting", handler_id="purged", **run)
        while "count" not in deployment.store.active_steps(str(handler.run_id)):
            await asyncio.sleep(0.01)
        assert left()
        assert (await client.cancel_handler("purged", purge=True)).status == "deleted"
        deployment.open_gate("purged")
        again = await client.run_workflow("counting", handler_id="another")

    assert again.result is not None
    assert again.result.value == {"result": 1}
    eventually(lambda: not left(), "nothing of it is left")
    store = deployment.store
    owners = [
        key
        for shard in range(store.settings.shards)
        for key in client_redis.scan_iter(match=store.keys.in_shard(shard, "owner:*"))
        if client_redis.smembers(key)
    ]
    eventually(lambda: not [key for key in owners if client_redis.smembers(key)], "no worker believes to hold it")
    assert worker.process.poll() is None
    assert "Traceback" not in worker.log()

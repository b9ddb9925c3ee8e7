"""`ctx.store` across processes: lost steps, killed editors, concurrent writers, forks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from support.eventually import eventually_async
from support.faults.redis_under_test import RedisUnderTest
from support.store.blocking import BlockingStore as Store
from support.store.state import Run, connected_store
from umbel.orchestration.model.errors import RunClosed
from umbel.tasks.state.store import StateEditLost
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis.temporary(append_only=False, binary=find_server(search_path="")) as server:
        yield server.url


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = connected_store(redis_url)
    yield store
    store.client.close()


@pytest.fixture
def run(store: Store) -> Run:
    return Run.start(store)


async def test_a_lost_step_neither_writes_nor_ends_its_edit(run: Run) -> None:
    zombie = run.claim("a")
    state = run.state(work=zombie)
    await state.set("n", 1)

    async def edit() -> None:
        async with state.edit_state() as edited:
            edited.n = 9
            run.lose(zombie)

    with pytest.raises(RunClosed) as caught:
        await edit()
    assert run.run_id in str(caught.value)
    for write in (lambda: state.set("n", 9), lambda: state.set("n.x", 9), state.clear, state.edit_state().__aenter__):
        with pytest.raises((RunClosed, ValueError)):
            await write()
    assert run.raw() == {"n": b"1"}

    successor = run.state(work=run.claim("a", owner="other"))
    await successor.set("n", 2)
    assert await state.get("n") == 2


async def test_an_edit_whose_lock_has_run_out_is_saved_if_nobody_has_written_meanwhile(run: Run) -> None:
    state = run.state()
    await state.set("m", 7)

    async with state.edit_state() as edited:
        edited.n = edited.m + 1
        run.store.client.delete(run.lock_key())

    assert run.raw() == {"m": b"7", "n": b"8"}


@pytest.mark.parametrize("changed", [{"m": "8"}, {"n": "1"}])
async def test_an_edit_whose_lock_has_run_out_is_not_saved_over_what_others_wrote(
    run: Run, changed: dict[str, str]
) -> None:
    state = run.state()
    await state.set("m", 7)

    async def edit() -> None:
        async with state.edit_state() as edited:
            edited.n = edited.m + 1
            run.store.client.delete(run.lock_key())
            run.store.client.hset(run.store.locate(run.run_id)[f"state:{run.run_id}"], mapping=changed)

    with pytest.raises(StateEditLost, match="was not saved") as caught:
        await edit()

    assert run.run_id in str(caught.value)
    assert run.raw() == {"m": b"7"} | {name: text.encode() for name, text in changed.items()}
    await state.set("n", 1)


async def test_an_edit_of_a_step_that_meets_a_redis_that_was_set_back_makes_the_attempt_obsolete(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    server = RedisUnderTest(tmp_path / "redis", supervisor)
    run = Run.start(connected_store(server.url))
    state = run.state(work=run.claim("a"))
    await state.set("m", 7)

    async def edit() -> None:
        async with state.edit_state() as edited:
            edited.n = edited.m + 1
            server.restart()
            run.store.client.delete(run.lock_key())
            run.store.client.hset(run.store.locate(run.run_id)[f"state:{run.run_id}"], "m", "5")

    with pytest.raises(RunClosed, match="Redis was set back during an edit"):
        await edit()
    with pytest.raises(RunClosed):
        await state.set("n", 1)
    assert run.raw() == {"m": b"5"}
    run.store.client.close()
    server.close()


CHILD = """
import asyncio, sys, time
from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.store.pipeline import Connection
from umbel.orchestration.connection.portal import Portal
from umbel.orchestration.store.verbs import Store as AsyncStore
from umbel.tasks.state.access import StateAccess
from umbel.tasks.state.store import DictState, StateStore

url, prefix, run_id, work_id, dispatch_no, lock_seconds = sys.argv[1:7]
portal = Portal("beside")
beside = AsyncStore(Connection(url, portal), Settings(redis_url=url, key_prefix=prefix, shards=2))
work = portal.call(beside.claim(run_id, work_id, int(dispatch_no), claim_id=new_id(), owner=new_id()))
state = StateStore(StateAccess(beside, run_id, run_id, DictState, work, lock_seconds=float(lock_seconds)))
print("ready", flush=True)
sys.stdin.readline()
"""

INCREMENT = """
async def main():
    async def once():
        async with state.edit_state() as s:
            s.n = s.to_dict().get("n", 0) + 1
        await state.set(f"done.{work_id}", "yes")
    for _ in range(100):
        await asyncio.gather(*(once() for _ in range(5)))
asyncio.run(main())
"""

HANG = """
async def main():
    here = AsyncStore(Connection(url, Portal("here", asyncio.get_running_loop())), beside.settings)
    given = here, run_id, run_id, DictState, work
    state = StateStore(StateAccess(*given, renewing=beside, lock_seconds=float(lock_seconds)))
    async with state.edit_state() as s:
        s.n = 99
        print("inside", flush=True)
        time.sleep(600)  # blocks the event loop as well
asyncio.run(main())
"""


@asynccontextmanager
async def child(run: Run, step: str, code: str, lock_seconds: float = 5.0) -> AsyncIterator[subprocess.Popen[str]]:
    dispatch, settings = run.dispatches[step], run.store.settings
    assert settings.redis_url is not None
    arguments = [settings.redis_url, settings.key_prefix, run.run_id, dispatch.work_id, str(dispatch.dispatch_no)]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD + code, *arguments, str(lock_seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


async def test_two_processes_lose_no_increment(run: Run) -> None:
    async with child(run, "a", INCREMENT) as first, child(run, "b", INCREMENT) as second:
        for process in (first, second):
            let_go(process)
        for process in (first, second):
            assert await asyncio.to_thread(process.wait, 50) == 0

    found = (await run.state().get_state()).to_dict()
    assert found["n"] == 1000
    assert found["done"] == {dispatch.work_id: "yes" for dispatch in run.dispatches.values()}


async def test_a_killed_editor_changes_nothing_and_blocks_for_seconds_at_most(run: Run) -> None:
    await run.state().set("n", 1)
    client, lock = run.store.client, run.lock_key()
    async with child(run, "a", HANG, lock_seconds=1.5) as editor:
        let_go(editor)
        assert editor.stdout is not None
        assert await asyncio.to_thread(editor.stdout.readline) == "inside\n"

        lives: list[int] = []

        def renewed_twice() -> bool:
            lives.append(client.pttl(lock))
            return sum(after > before for before, after in pairwise(lives)) >= 2

        await eventually_async(renewed_twice, "the lock of a living editor is renewed")

        os.kill(editor.pid, signal.SIGKILL)
        editor.wait()
        assert client.exists(lock) == 1

    await run.state().set("m", 2)
    assert run.raw() == {"n": b"1", "m": b"2"}


FORKED = """
import contextvars, os
from umbel.tasks.state.access import StateAccess
from umbel.tasks.state.store import SyncStateStore

async def edits(name):
    async def edit(number):
        async with state.edit_state() as s:
            s[f"{name}{number}"] = True
    await asyncio.gather(edit(1), edit(2), edit(3))

async def edit_until_renewed():
    lock = beside.locate(run_id)[f"state:{run_id}:lock"]
    client = connect(url)
    async with asyncio.timeout(20), state.edit_state() as s:
        s.renewed = True
        before = after = client.pttl(lock)
        while after <= before:
            before, after = after, client.pttl(lock)
            await asyncio.sleep(0)

asyncio.run(edits("parent"))
with SyncStateStore(StateAccess(beside, run_id, run_id, DictState, work)).edit_state() as s:
    s.fork = True
    # The child has neither the connection and loop of its parent nor, being another writer, its turn.
    pid = os.fork()
    if pid == 0:
        contextvars.Context().run(asyncio.run, edits("child"))
        contextvars.Context().run(asyncio.run, edit_until_renewed())
        os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


async def test_a_forked_child_writes_as_well(run: Run) -> None:
    async with child(run, "a", FORKED, lock_seconds=2) as process:
        let_go(process)
        assert await asyncio.to_thread(process.wait, 30) == 0

    edits = {f"{process}{n}" for process in ("parent", "child") for n in (1, 2, 3)}
    assert set(run.raw()) == {*edits, "fork", "renewed"}

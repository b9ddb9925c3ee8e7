"""Embedded Redis with several users, some of them killed: one server, all data kept, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.eventually import eventually
from support.processes.owner import OwnerProcess, client, is_gone, owner, processes_mentioning
from umbel.workers.embedded.redis_server import EmbeddedRedis


def test_a_second_user_of_a_folder_is_given_the_same_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    with owner(tmp_path) as first:
        with EmbeddedRedis.in_folder(tmp_path) as second:
            assert second.pid == first["server"]
            assert second.url == first["url"]

            first.leave()
            with client(second.url) as connected:
                assert connected.ping()

        assert is_gone(first["server"])


def test_a_user_who_leaves_before_the_starter_does_not_stop_the_server(tmp_path: Path) -> None:
    with EmbeddedRedis.in_folder(tmp_path) as starter:
        with owner(tmp_path) as second:
            assert second["server"] == starter.pid
            second.leave()
            assert is_gone(second["supervisor"])

        with client(starter.url) as connected:
            assert connected.ping()


def test_two_users_in_one_process_count_as_two(tmp_path: Path) -> None:
    first = EmbeddedRedis.in_folder(tmp_path).start()
    second = EmbeddedRedis.in_folder(tmp_path).start()
    pid = first.pid
    assert pid is not None
    assert pid == second.pid

    first.close()
    with client(second.url) as connected:
        assert connected.ping()

    second.close()
    eventually(lambda: is_gone(pid), "the server has ended and is no zombie")


def test_users_who_come_all_at_once_share_one_server(tmp_path: Path) -> None:
    owners = [OwnerProcess(tmp_path) for _ in range(4)]
    try:
        servers = {each["server"] for each in owners}
        assert len(servers) == 1
        for each in owners:
            each.leave()
        assert is_gone(servers.pop())
    finally:
        for each in owners:
            each.kill()


def test_users_who_come_and_go_at_random_always_find_a_server_with_all_data(tmp_path: Path) -> None:
    visitor = """
import sys, redis
from pathlib import Path
from umbel.workers.embedded.redis_server import EmbeddedRedis
for _ in range(8):
    with EmbeddedRedis.in_folder(Path(sys.argv[1])) as server, redis.Redis.from_url(server.url) as connected:
        connected.incr("visits")
"""
    visitors = [subprocess.Popen([sys.executable, "-c", visitor, str(tmp_path)]) for _ in range(3)]
    assert [each.wait() for each in visitors] == [0, 0, 0]

    with EmbeddedRedis.in_folder(tmp_path) as server, client(server.url) as connected:
        assert connected.get("visits") == "24"


def test_a_killed_starter_leaves_the_server_to_those_who_use_it(tmp_path: Path) -> None:
    with owner(tmp_path) as first, owner(tmp_path) as second:
        assert second["server"] == first["server"]

        first.kill()
        eventually(lambda: is_gone(first["supervisor"]), "the first one's supervisor has done its work")
        with client(second["url"]) as connected:
            assert connected.ping()

        second.kill()
        eventually(lambda: is_gone(second["server"]), "the server has ended with its last user")
    assert (tmp_path / "server.conf").exists()


def test_a_killed_owner_leaves_no_server_no_worker_and_no_folder(tmp_path: Path) -> None:
    farewell = tmp_path / "farewell"
    polite = f"""
import pathlib, redis, signal, sys
def leave(*_):
    server = redis.Redis.from_url(sys.argv[1])
    server.blpop("nothing", timeout=0.3)  # longer than a server takes to end
    server.set("left", "1")
    pathlib.Path({str(farewell)!r}).write_text("the server was still there")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
pathlib.Path({str(tmp_path / "polite")!r}).touch()
while True: signal.pause()
"""
    stubborn = f"""
import pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"])
pathlib.Path({str(tmp_path / "stubborn")!r}).touch()
while True: signal.pause()
"""
    workers = [([sys.executable, "-c", polite], 20.0), ([sys.executable, "-c", stubborn], 0.1)]
    with owner(workers=workers) as killed:
        folder = Path(killed["folder"])
        pids = [killed["server"], *killed["workers"]]
        eventually(lambda: (tmp_path / "polite").exists(), "the polite worker is up")
        eventually(lambda: (tmp_path / "stubborn").exists(), "the stubborn worker is up")
        children = Path(f"/proc/{pids[2]}/task/{pids[2]}/children").read_text().split()
        pids += map(int, children)
        assert len(children) == 1
        assert folder.is_dir()

        killed.kill()

        eventually(lambda: is_gone(killed["supervisor"]), "the supervisor has ended")
        assert [pid for pid in pids if not is_gone(pid)] == []
        assert not folder.exists()
        assert farewell.read_text() == "the server was still there"


def test_a_killed_owner_leaves_no_celery_worker(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    worker = f"""
import pathlib, sys, celery
from celery.signals import worker_ready
app = celery.Celery("probe", broker=sys.argv[-1])
worker_ready.connect(lambda **_: pathlib.Path({str(ready)!r}).touch(), weak=False)
app.worker_main(["worker", "--pool=prefork", "--concurrency=2", "--loglevel=ERROR"])
"""
    with owner(workers=[([sys.executable, "-c", worker], 20.0)]) as killed:
        eventually(ready.exists, "the worker is up")
        folder = Path(killed["folder"])
        assert len(processes_mentioning(str(ready))) >= 3  # its main process and two children, next to the owner

        killed.kill()

        eventually(lambda: is_gone(killed["supervisor"]), "the supervisor has ended")
        assert processes_mentioning(str(ready)) == []
        assert is_gone(killed["server"])
        assert not folder.exists()


def test_an_owner_killed_at_any_line_of_its_life_leaves_nothing(tmp_path: Path) -> None:
    lives = """
import itertools, os, signal, sys, tempfile
from umbel.workers.embedded.redis_server import EmbeddedRedis
tempfile.tempdir = sys.argv[1]

def live_until_line(last):
    lines = 0
    def trace(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.rpartition("/")[0].endswith("embedded"):
            return None
        lines += event == "line"
        if lines == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    EmbeddedRedis.temporary().start().close()
    os._exit(0)

for blow in itertools.count(1, 7):
    child = os.fork() or live_until_line(blow)
    if os.waitpid(child, 0)[1] == 0:
        print(blow)
        break
"""
    command = [sys.executable, "-c", lives, str(tmp_path)]
    survived = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert int(survived) > 100

    def serving() -> list[str]:
        links = []
        for entry in Path("/proc").iterdir():
            try:
                links.append(os.readlink(entry / "cwd"))
            except OSError:
                continue
        return [link for link in links if link.startswith(str(tmp_path))]

    eventually(lambda: serving() == [] and not any(tmp_path.iterdir()), "all servers and folders are gone")


def test_a_server_started_again_under_a_user_is_stopped_by_that_user_in_the_end(tmp_path: Path) -> None:
    with EmbeddedRedis.in_folder(tmp_path) as first:
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        eventually(lambda: is_gone(first.pid or 0), "the server is dead")
        with EmbeddedRedis.in_folder(tmp_path) as second:
            second_pid = second.pid
            assert second_pid is not None
        with client(first.url) as connected:
            assert connected.info("server")["process_id"] == second_pid

    eventually(lambda: is_gone(second_pid), "the second server has ended")


def test_a_forked_child_cannot_start_a_server_that_nothing_would_end(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from umbel.workers.embedded.redis_server import EmbeddedRedis, EmbeddedRedisFailed
server = EmbeddedRedis.in_folder(Path({str(tmp_path / "state")!r}))
child = os.fork()
if child == 0:
    try:
        with server:
            os.write(1, b"started")
    except EmbeddedRedisFailed as error:
        os.write(1, str(error).encode())
    os._exit(0)
os.waitpid(child, 0)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "belongs to process" in answer
    assert "make another EmbeddedRedis here" in answer
    assert not (tmp_path / "state").exists()

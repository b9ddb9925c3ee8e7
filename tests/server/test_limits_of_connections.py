"""The cost of a client that sends too much, too slowly or nothing: real connections to a real server."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from support.eventually import eventually
from support.http.flows import make_server
from umbel.server.http import connections
from umbel.server.http.connections import most_connections

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
Connect = Callable[[bytes], socket.socket]


@pytest.fixture
def listening(runtime: Any) -> Iterator[Callable[..., Connect]]:
    """Starts servers; returns functions that connect to them and send the first bytes."""
    started: list[tuple[uvicorn.Server, threading.Thread]] = []
    with contextlib.ExitStack() as stack:

        def listen(**more: Any) -> Connect:
            server = make_server(runtime, token="secret", public_paths=["/health"])
            config = server.uvicorn_config("127.0.0.1", 0, {"log_level": "warning", **more})
            running = uvicorn.Server(config)
            thread = threading.Thread(target=running.run, daemon=True)
            thread.start()
            started.append((running, thread))
            eventually(lambda: running.started, "the server listens")
            address = running.servers[0].sockets[0].getsockname()[:2]

            def connect(first: bytes) -> socket.socket:
                opened = stack.enter_context(socket.create_connection(address, timeout=20))
                opened.sendall(first)
                return opened

            return connect

        yield listen
    for running, thread in started:
        running.should_exit = True
        thread.join(20)


def answer(connection: socket.socket) -> bytes:
    """Read everything until the connection is closed."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    return received


def status(connection: socket.socket) -> int:
    """Read a response and return its status."""
    return int(connection.recv(1 << 16).split(b" ", 2)[1])


@pytest.mark.parametrize(
    "head",
    [
        GET + b"x: " + b"a" * 40_000 + b"\r\n\r\n",
        GET + b"".join(b"x%d: a\r\n" % n for n in range(300)) + b"\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["large header", "many headers", "long address"],
)
def test_a_head_that_is_too_large_is_refused(listening: Callable[..., Connect], head: bytes) -> None:
    assert status(listening()(head)) == 431


def test_a_header_without_end_is_cut_off_after_a_few_kilobytes(listening: Callable[..., Connect]) -> None:
    connection = listening()(GET + b"x: ")
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 64 << 20:
            connection.sendall(b"a" * (1 << 16))
            sent += 1 << 16
    assert sent < 32 << 20  # only what fits into the kernel's buffers


def test_a_head_that_takes_too_long_ends_its_connection(
    listening: Callable[..., Connect], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    connect = listening()
    for first in (b"", b"\r\n", GET, GET + b"Authorization: Bearer secret\r\n\r\n\r\n" + GET[:10]):
        connection = connect(first)
        began = time.monotonic()
        answer(connection)
        assert time.monotonic() - began < 8, first


def test_a_body_that_comes_too_slowly_ends_its_connection(
    listening: Callable[..., Connect], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.1)
    head = b"POST /workflows/greet/run HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
    connection = listening()(head + b"Content-Length: 100000\r\n\r\n{")
    assert answer(connection) == b""


def test_the_body_of_a_refused_request_is_not_read_on(
    listening: Callable[..., Connect], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.1)
    connection = listening()(
        b"POST /workflows/greet/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{"
    )
    assert answer(connection).startswith(b"HTTP/1.1 401 ")


def test_a_full_server_makes_room_for_those_who_send_requests(listening: Callable[..., Connect]) -> None:
    connect = listening(limit_concurrency=20)
    silent = [connect(b"") for _ in range(30)]
    for _ in range(5):
        assert status(connect(GET + b"\r\n")) == 200
    assert len(silent) == 30


def test_requests_within_the_limits_are_answered(
    listening: Callable[..., Connect], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    connect = listening()
    post = b"POST /workflows/greet/run HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
    body = b'{"start_event": {"name": "' + b"a" * 200_000 + b'"}}'
    head = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert b'"completed"' in answer(connect(post + head + body))
    connection = connect(GET + b"\r\n" + GET + b"\r\n" + GET + b"Connection: close\r\n\r\n")
    assert answer(connection).count(b"200 OK") == 3


def test_a_burst_of_connections_that_are_refused_fits_into_the_reserved_files(runtime: Any) -> None:
    config = make_server(runtime).uvicorn_config("127.0.0.1", 0)

    assert config.backlog * 4 < connections.RESERVED_FILES
    assert config.limit_concurrency == most_connections()


def test_there_are_fewer_connections_than_files() -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 16 <= most_connections() <= max(16, files - connections.RESERVED_FILES)

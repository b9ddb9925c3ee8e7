"""Redis as providers run it: mutual TLS, sockets, IPv6, any password, idle connections that are cut."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from redis.exceptions import RedisError

from support.eventually import eventually
from support.faults.tls_front import tls_front
from support.flows import everyday as flows
from support.processes.clusters import ClusterUnderTest
from support.processes.driving import QUICK, Deploy
from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.connection.settings import Settings
from umbel.tasks.messages.quarantine_counts import quarantine_counts
from umbel.workers.celery_app.app import create_app
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.supervisor import Supervisor
from umbel.workers.transport.quarantine import quarantined_of, set_aside

#: All characters that a generated password may contain, and more.
PASSWORD = "p@ss:w/o?r#d%41&=+;'\"é "

Serve = Callable[..., None]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server with these settings and wait until the URL reaches it."""
    started: list[subprocess.Popen[bytes]] = []
    with Supervisor() as supervisor, open(tmp_path / "log", "w") as log:

        def serve(url: str, **settings: object) -> None:
            given = {name.replace("_", "-"): str(value) for name, value in settings.items()}
            options = {"save": "", "dir": str(tmp_path), "maxmemory-policy": "noeviction"} | given
            command = [
                str(find_server(search_path="")),
                *(w for o in options.items() for w in (f"--{o[0]}", o[1])),
            ]
            server = supervisor.spawn(command, cwd=tmp_path, output=log.fileno())
            started.append(server)

            def answers() -> bool:
                assert server.poll() is None, (tmp_path / "log").read_text()
                with connect(url) as client:
                    try:
                        return bool(client.ping())
                    except RedisError:
                        return False

            eventually(answers, "the server answers")

        yield serve
        supervisor.stop(*started, within_seconds=5)


def runs(deploy: Deploy, url: str, pool: str = "asyncio") -> None:
    """Start a worker and a client there, and execute a run with published events."""
    deployment = deploy(url, **QUICK)
    worker = deployment.worker("one", pool=pool).wait_ready()
    handler = deployment.start(flows.Chain, n=7, seconds=0.0)
    assert handler.result(40) == 49
    assert "Connection to broker lost" not in worker.log()


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_a_server_with_a_private_authority_that_asks_for_the_certificate_of_its_client(
    serve: Serve, deploy: Deploy, tmp_path: Path, pool: str
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    authority(tmp_path)
    for name in ("server", "client"):
        certificate(tmp_path, name)
    behind = free_port()
    serve(f"redis://127.0.0.1:{behind}/0", port=behind, bind="127.0.0.1")
    with tls_front(tmp_path, behind) as port:
        trusted = f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path}/ca.pem"
        with connect(trusted) as stranger, pytest.raises(RedisError):
            stranger.ping()
        with connect(f"rediss://localhost:{port}/0") as mistrustful, pytest.raises(RedisError, match="verify failed"):
            mistrustful.ping()

        runs(deploy, f"{trusted}&ssl_certfile={tmp_path}/client.pem&ssl_keyfile={tmp_path}/client.key", pool)


def test_a_cluster_whose_nodes_speak_tls_and_announce_a_name(
    deploy: Deploy, tmp_path: Path, durable_redis_url: str
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    authority(tmp_path)
    certificate(tmp_path, "server", "DNS:localhost,IP:127.0.0.1")  # redis-py's other client resolves localhost
    with Supervisor() as supervisor, ExitStack() as fronts:
        cluster = ClusterUnderTest(tmp_path, supervisor)
        fronts.callback(cluster.close)
        ports = [fronts.enter_context(tls_front(tmp_path, port, asks=False)) for port in cluster.primaries]
        for node, port in zip(cluster.primaries, ports, strict=True):
            announced = {"port": port, "hostname": "localhost"}
            for name, value in announced.items():
                cluster.ask(node, "CONFIG", "SET", f"cluster-announce-{name}", value)
            cluster.ask(node, "CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname")

        def known(node: int) -> bool:
            return all(f":{port}@".encode() in cluster.ask(node, "CLUSTER", "NODES") for port in ports)

        eventually(lambda: all(map(known, cluster.primaries)), "each node knows what the others announce")
        at = f"rediss+cluster://:{cluster.password}@localhost:{ports[0]},localhost:{ports[1]}/0"
        deployment = deploy(f"{at}?ssl_ca_certs={tmp_path}/ca.pem", broker_url=durable_redis_url, **QUICK)
        deployment.worker("one", pool="asyncio").wait_ready()
        handlers = [deployment.start(flows.Chain, n=n, seconds=0.0) for n in range(12)]
        assert [handler.result(40) for handler in handlers] == [n * n for n in range(12)]
        deployment.close()  # before the cluster


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_a_unix_socket_with_a_password_and_a_database(serve: Serve, deploy: Deploy, tmp_path: Path, pool: str) -> None:
    socket = tmp_path / "redis.sock"
    url = f"unix://:{quote(PASSWORD, safe='')}@{socket}?db=3"
    serve(url, port=0, unixsocket=socket, requirepass=PASSWORD)

    runs(deploy, url, pool)

    with connect(url) as client:
        assert client.dbsize() > 0
    with connect(url.replace("db=3", "db=0")) as client:
        assert client.dbsize() == 0


def test_malformed_messages_of_a_broker_on_a_unix_socket_are_shown_and_counted(serve: Serve, tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    url = f"unix://:{quote(PASSWORD, safe='')}@{socket}?db=3"
    serve(url, port=0, unixsocket=socket, requirepass=PASSWORD)
    settings = Settings(redis_url=url)
    with connect(url) as client:
        set_aside(client, settings.broker_prefix, "work", b"nonsense", "expected JSON")

    assert quarantined_of(settings)["work"].count == 1
    assert quarantine_counts(create_app(settings)) == {"work": 1}


def test_an_address_of_ipv6_and_a_user_with_any_password(serve: Serve, deploy: Deploy) -> None:
    port = free_port()
    url = f"redis://umbel:{quote(PASSWORD, safe='')}@[::1]:{port}/0"
    admin = f"redis://:{quote(PASSWORD, safe='')}@[::1]:{port}/0"
    serve(admin, port=port, bind="::1", requirepass=PASSWORD)
    with connect(admin) as client:
        client.execute_command("ACL", "SETUSER", "umbel", "on", f">{PASSWORD}", "~*", "&*", "+@all")

    runs(deploy, url)


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_idle_connections_that_are_cut_interrupt_nothing(serve: Serve, deploy: Deploy, pool: str) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    serve(url, port=port, bind="127.0.0.1", timeout=1)
    deployment = deploy(url, **QUICK | {"sweep_seconds": 0.5})
    worker = deployment.worker("one", pool=pool).wait_ready()
    held = deployment.start(flows.Held)
    deployment.await_effects("begun", run_id=held.run_id)
    with connect(url) as client:
        cut = {
            each["id"] for each in client.client_list() if each["cmd"].split("|")[0] in ("fcall", "xrange", "hgetall")
        }

    def are_cut() -> bool:
        with connect(url) as client:
            return not cut & {each["id"] for each in client.client_list() if float(each["idle"]) > 0}

    eventually(are_cut, "idle connections are cut")
    handlers = [deployment.start(flows.Chain, n=n, seconds=0.0) for n in range(5)]
    deployment.open_gate(held.run_id)

    assert [handler.result(40) for handler in handlers] == [n * n for n in range(5)]
    assert held.result(40) == 1  # its first attempt
    assert "Traceback" not in worker.log()


def authority(folder: Path) -> None:
    # Python 3.13 and newer require the extensions that RFC 5280 prescribes, here and below.
    words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=authority -addext keyUsage=critical,keyCertSign"
    files = ["-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.pem")]
    subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)


def certificate(folder: Path, name: str, names: str = "DNS:localhost") -> None:
    """Create a certificate for these names, signed by the authority."""
    key, request, made = (str(folder / f"{name}.{kind}") for kind in ("key", "csr", "pem"))
    words = [
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-addext",
        f"subjectAltName={names}",
    ]
    subprocess.run(["openssl", *words, "-keyout", key, "-out", request], check=True, capture_output=True)
    signing = ["-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", "1"]
    extensions = folder / "extensions"
    extensions.write_text("authorityKeyIdentifier=keyid\n")
    given = ["-copy_extensions", "copy", "-extfile", str(extensions)]
    command = ["openssl", "x509", "-req", "-in", request, *given, "-out", made, *signing]
    subprocess.run(command, check=True, capture_output=True)

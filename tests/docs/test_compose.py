"""docker-compose.yml without Docker: its settings are checked, and each service's command is run as a process."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.docs.pages import ROOT
from support.docs.served import UMBEL, FlowerApi, Served
from support.eventually import eventually
from umbel import Settings
from umbel.workers.cli.main import cli
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.supervisor import Supervisor

TEXT = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

_VARIABLE = re.compile(r"\$\{(\w+):([-?])([^}]*)\}")
#: The values that a user writes into .env.
SECRETS = {name: secrets.token_hex(16) for name in ("REDIS_PASSWORD", "UMBEL_SERVER_TOKEN", "FLOWER_PASSWORD")}


def resolved(text: str) -> str:
    """Replace all variables by their defaults or secrets."""
    return _VARIABLE.sub(lambda match: SECRETS[match[1]] if match[2] == "?" else match[3], text)


SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(resolved(TEXT))["services"]
#: The services that run umbel's own image.
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "umbel:local"}


def options(name: str) -> dict[str, str]:
    """Return the command of a service as option -> value, for servers whose options are all pairs."""
    words = SERVICES[name]["command"][1:]
    return dict(zip(words[::2], words[1::2], strict=True))


def instruction(name: str) -> str:
    """Return the argument of the last such instruction in the Dockerfile."""
    said: list[str] = re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)
    return said[-1]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_fits_the_schema_of_compose() -> None:
    validator = Path(sys.executable).with_name("check-jsonschema")
    command = [validator, "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_redis_keeps_what_it_has_acknowledged() -> None:
    service = SERVICES["redis"]

    assert options("redis")["--appendonly"] == "yes"
    assert options("redis")["--appendfsync"] in ("everysec", "always")
    assert options("redis")["--maxmemory-policy"] == "noeviction"
    assert any(volume.endswith(":/data") for volume in service["volumes"])


def test_services_that_need_redis_wait_until_it_is_healthy() -> None:
    service = SERVICES["redis"]

    assert service["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]
    assert service["environment"]["REDISCLI_AUTH"] == options("redis")["--requirepass"]
    for name in OURS:
        assert SERVICES[name]["depends_on"]["redis"] == {"condition": "service_healthy"}


def test_workers_can_be_scaled() -> None:
    assert not {"container_name", "hostname", "ports"} & set(SERVICES["worker"])
    assert not {"-n", "--name"} & set(SERVICES["worker"]["command"])


def test_a_worker_has_the_time_to_drain() -> None:
    assert float(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds + 5


def test_a_worker_that_hangs_is_seen() -> None:
    assert SERVICES["worker"]["healthcheck"]["test"] == ["CMD", "umbel", "ping"]


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]

    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_flower_asks_for_a_login() -> None:
    user, _, password = SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"].partition(":")

    assert user
    assert password


def test_the_server_asks_for_a_token_and_is_looked_after() -> None:
    service = SERVICES["server"]

    assert service["environment"]["UMBEL_SERVER_TOKEN"]
    assert service["healthcheck"]["test"][:2] == ["CMD", "python"]
    assert ":8080/health'" in service["healthcheck"]["test"][3]
    assert "--public-path" not in " ".join(service["command"])  # by default /health needs no token


def test_no_service_starts_with_a_secret_that_everybody_knows() -> None:
    asked = {match[1] for match in _VARIABLE.finditer(TEXT) if match[2] == "?"}
    made = re.search(r"for name in ([A-Z_ ]+); do echo \$name=\$\(openssl rand", TEXT)

    assert made is not None
    assert asked == set(made[1].split()) == SECRETS.keys()
    assert not any(each in SECRETS for each in [match[1] for match in _VARIABLE.finditer(TEXT) if match[2] == "-"])


def test_the_image_contains_no_secrets_of_the_folder_it_is_built_in() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert {".git", "**/.env*", "**/*.pem", "**/*.key"} <= set(ignored)


def test_every_service_comes_up_again_by_itself() -> None:
    assert {service["restart"] for service in SERVICES.values()} == {"unless-stopped"}


def test_the_environment_of_our_services_has_only_settings_that_umbel_knows() -> None:
    for service in OURS.values():
        assert Settings.from_environment(service["environment"]).redis_url


def test_umbel_still_works_in_a_shell_that_sets_a_variable_of_the_file() -> None:
    names = [match[1] for match in _VARIABLE.finditer(TEXT)]
    environment = {name: "examples/approval.py" for name in names if name.startswith("UMBEL_")}

    assert Settings.from_environment(environment) == Settings()


@pytest.mark.parametrize("name", OURS)
def test_the_command_of_a_service_is_one_that_the_image_has(name: str) -> None:
    command, *arguments = OURS[name]["command"]
    found = cli.get_command(click.Context(cli), command)

    assert instruction("ENTRYPOINT") == '["umbel"]'
    assert found is not None
    found.make_context(command, arguments)  # raises for an unknown option


def test_the_image_has_what_the_services_need() -> None:
    extras = re.search(r'pip install .*"/src\[([a-z,]+)\]"', DOCKERFILE)
    python = re.fullmatch(r"python:3\.(\d+)-slim", instruction("FROM"))

    assert extras is not None
    assert python is not None
    assert {"server", "flower"} <= set(extras[1].split(","))
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert int(python[1]) >= int(PROJECT["requires-python"].removeprefix(">=3."))
    assert instruction("USER") != "root"
    assert instruction("WORKDIR") == "/app"
    assert "cp -r /src/examples /app/examples" in DOCKERFILE
    for target in OURS["worker"]["environment"]["UMBEL_TARGETS"].split():
        assert (ROOT / target).is_file()


# -- the processes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composed:
    """All services as processes.

    Attributes:
        folder: In place of the working folder of the containers, and of a user on the host.
        ports: Ports of services, in place of those in the file.
        workers: The two workers.
    """

    folder: Path
    ports: dict[str, int]
    workers: list[Served]

    @property
    def redis_url(self) -> str:
        """The URL of Redis as seen from the host."""
        return f"redis://:{options('redis')['--requirepass']}@127.0.0.1:{self.ports['redis']}/0"

    def umbel(self, *arguments: str) -> str:
        """Return the output of a command that a user runs on the host."""
        done = subprocess.run(
            [UMBEL, *arguments],
            cwd=self.folder,
            env=os.environ | {"UMBEL_REDIS_URL": self.redis_url},
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """`docker compose up --scale worker=2`: redis first; once it is healthy, the others."""
    folder = tmp_path_factory.mktemp("app")
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "data").mkdir()
    ports = {"redis": free_port(), "flower": free_port(), "server": free_port()}

    def environment(name: str) -> dict[str, str]:
        values: dict[str, str] = SERVICES[name]["environment"]
        return {key: value.replace("@redis:6379/", f"@127.0.0.1:{ports['redis']}/") for key, value in values.items()}

    def command(name: str) -> list[str]:
        ours = f"--port={ports.get(name)}"
        words = [ours if word.startswith("--port=") else word for word in SERVICES[name]["command"]]
        if name != "redis":
            return [UMBEL, *words]
        here = ["--bind", "127.0.0.1", "--port", str(ports["redis"]), "--dir", str(folder / "data")]
        return [str(find_server()), *words[1:], *here]

    def served(name: str, number: int = 1) -> Served:
        return Served(supervisor, folder, f"{name}-{number}", command(name), environment(name))

    with Supervisor() as supervisor, served("redis"):
        password = SERVICES["redis"]["environment"]["REDISCLI_AUTH"]
        eventually(lambda: is_healthy(ports["redis"], password), "redis is healthy")
        with served("worker", 1) as first, served("worker", 2) as second, served("flower"), served("server") as server:
            for worker in (first, second):
                worker.says(" ready.")
            server.says("the console page and the HTTP API)")
            yield Composed(folder, ports, [first, second])


def is_healthy(port: int, password: str | None) -> bool:
    """Do what `redis-cli ping` does with this REDISCLI_AUTH.

    Raises:
        redis.AuthenticationError: The password is missing or wrong.
    """
    with redis.Redis(port=port, password=password, retry=Retry(NoBackoff(), 0)) as client:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            raise
        except redis.ConnectionError:
            return False


def test_redis_refuses_clients_without_the_password(composed: Composed) -> None:
    with pytest.raises(redis.AuthenticationError):
        is_healthy(composed.ports["redis"], None)


def test_the_doctor_finds_nothing_to_fix(composed: Composed) -> None:
    said = composed.umbel("doctor")

    assert "DANGER" not in said
    assert "serves approval.Approval, code_audit.CodeAudit, streaming.Poet" in said


def test_the_command_at_the_head_of_the_file_starts_a_run(composed: Composed) -> None:
    shown = re.search(r"from the host: +UMBEL_REDIS_URL=(\S+) umbel (start .+)$", TEXT, re.MULTILINE)
    assert shown is not None
    url = shown[1].replace(":6379/", f":{composed.ports['redis']}/")
    assert url.replace("$REDIS_PASSWORD", SECRETS["REDIS_PASSWORD"]) == composed.redis_url

    run_id = composed.umbel(*shlex.split(shown[2]))

    assert "small sums need no asking" in composed.umbel("events", run_id, "--follow")


def test_a_run_is_asked_something_and_answered_from_the_host(composed: Composed) -> None:
    run_id = composed.umbel("start", "examples/approval.py", "amount=1200")
    composed.umbel("send", run_id, "Decision", "approved=true", "by=Ada")

    assert "approved by Ada" in composed.umbel("events", run_id, "--follow")


def test_the_workers_audit_what_lies_in_their_image(composed: Composed) -> None:
    report = composed.umbel("run", "examples/code_audit.py", "path=examples", "top=3")

    files = len(list((ROOT / "examples").rglob("*.py")))
    assert report.startswith(f"{files} files, ")
    assert "Files that do not parse: 0" in report


def test_flower_shows_the_steps_of_all_workers_after_a_login(composed: Composed) -> None:
    login = SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"]
    flower = FlowerApi(composed.ports["flower"], login)
    flower.wait_for_worker()
    assert FlowerApi(composed.ports["flower"], None).status("/api/tasks") == 401

    assert composed.umbel("run", "examples/streaming.py", "topic=rain").startswith("The rain came in the night")

    def states() -> dict[str, str]:
        return {task["name"]: task["state"] for task in flower.json("/api/tasks").values()}

    poet = {f"Poet.{step}": "SUCCESS" for step in ("plan", "write", "polish")}
    eventually(lambda: poet.items() <= states().items(), "Flower shows the steps")
    assert len(flower.json("/api/workers?refresh=1")) == 2


def test_the_server_runs_what_the_workers_have_after_a_token(composed: Composed) -> None:
    url = f"http://127.0.0.1:{composed.ports['server']}"
    token = {"authorization": f"Bearer {SERVICES['server']['environment']['UMBEL_SERVER_TOKEN']}"}
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/workflows").status_code == 401
    eventually(lambda: httpx.get(f"{url}/ready", headers=token).status_code == 200, "the workers are announced")

    body = {"start_event": {"amount": 50}}
    answer = httpx.post(f"{url}/workflows/Approval/run", json=body, headers=token, timeout=40)

    assert "small sums need no asking" in answer.json()["result"]["value"]["result"]

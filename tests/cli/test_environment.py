"""Environment variables of platforms and operators: unknown names warn, wrong values stop, and the error says why."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support import TESTS
from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.command_line import Cli
from support.processes.driving import Deploy
from umbel import ConfigurationError, Settings
from umbel.orchestration.connection.redis_client import connect, refuse_old_release
from umbel.orchestration.model.durations import LONGEST_SECONDS
from umbel.tasks.client.runtime import Runtime
from umbel.tasks.messages.dispatcher import checked_broker
from umbel.workers.celery_app.app import create_app
from umbel.workers.cli.start import flower
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.folder import state_folder

SECRET = "s3cret"
#: The variables that Kubernetes sets for Services called `umbel` and `umbel-redis`.
INJECTED = {
    "UMBEL_PORT": "tcp://10.0.0.1:80",
    "UMBEL_PORT_80_TCP": "tcp://10.0.0.1:80",
    "UMBEL_PORT_80_TCP_ADDR": "10.0.0.1",
    "UMBEL_PORT_80_TCP_PORT": "80",
    "UMBEL_PORT_80_TCP_PROTO": "tcp",
    "UMBEL_SERVICE_HOST": "10.0.0.1",
    "UMBEL_SERVICE_PORT": "80",
    "UMBEL_SERVICE_PORT_HTTP": "80",
    "UMBEL_REDIS_PORT_6379_TCP": "tcp://10.0.0.2:6379",
    "UMBEL_REDIS_SERVICE_HOST": "10.0.0.2",
}


def test_what_kubernetes_injects_is_named_in_one_warning_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert Settings.from_environment(INJECTED | {"UMBEL_SHARDS": "3"}) == Settings(shards=3)
    Settings.from_environment(INJECTED)
    (said,) = [each.getMessage() for each in caplog.records]
    assert all(name in said for name in INJECTED)
    assert "enableServiceLinks: false" in said


def test_an_unknown_name_is_ignored_and_the_nearest_setting_named(caplog: pytest.LogCaptureFixture) -> None:
    given = {"UMBEL_LEASE_SECS": "3", "UMBEL_REDIS_URI": f"redis://:{SECRET}@here", "UMBEL_FROM_THE_FUTURE_XYZ": "1"}
    assert Settings.from_environment(given) == Settings()
    assert sorted(each.getMessage() for each in caplog.records) == [
        "Ignored: UMBEL_FROM_THE_FUTURE_XYZ is no setting of this release of umbel.",
        "Ignored: UMBEL_LEASE_SECS is no setting of this release of umbel. Did you mean UMBEL_LEASE_SECONDS?",
        "Ignored: UMBEL_REDIS_URI is no setting of this release of umbel. Did you mean UMBEL_REDIS_URL?",
    ]


def test_a_value_that_does_not_fit_stops() -> None:
    with pytest.raises(ConfigurationError, match="UMBEL_LEASE_SECONDS"):
        Settings.from_environment(INJECTED | {"UMBEL_LEASE_SECONDS": "soon"})


#: Every setting that is a number, with the largest value that it accepts.
LARGEST = {
    name: next(bound.le for bound in field.metadata if hasattr(bound, "le"))
    for name, field in Settings.model_fields.items()
    if field.annotation in (int, float)
} | {"session_retention_seconds": LONGEST_SECONDS}


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e18", "99999999999999999999"])
@pytest.mark.parametrize("name", LARGEST)
def test_a_number_that_no_timer_or_script_can_take_stops(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"UMBEL_{name.upper()}: Input should be"):
        Settings.from_environment({f"UMBEL_{name.upper()}": value})


@pytest.mark.parametrize("value", ["a\nb", "a\x1b[31m", "a\x9b"])
def test_a_queue_that_no_log_line_could_show_stops(value: str) -> None:
    with pytest.raises(ConfigurationError, match="UMBEL_DEFAULT_QUEUE"):
        Settings.from_environment({"UMBEL_DEFAULT_QUEUE": value})


@pytest.mark.parametrize("value", ["last:9999999999999", "99999999999", "1e18", "inf"])
def test_a_past_of_more_entries_or_seconds_than_can_be_counted_stops(value: str) -> None:
    with pytest.raises(ConfigurationError, match="UMBEL_HISTORY_KEEP"):
        Settings.from_environment({"UMBEL_HISTORY_KEEP": value})


@pytest.mark.parametrize("name", [name for name in LARGEST if name.endswith("_seconds")])
def test_a_duration_shorter_than_a_millisecond_is_refused_unless_0_means_something(name: str) -> None:
    if name in ("continuation_seconds", "flush_seconds", "drain_seconds", "history_pack_after_seconds"):
        assert getattr(Settings(**{name: 0}), name) == 0
    else:
        with pytest.raises(ConfigurationError, match=f"UMBEL_{name.upper()}: Input should be .* 0.001"):
            Settings.from_environment({f"UMBEL_{name.upper()}": "0.0001"})


def test_a_worker_and_its_runs_can_take_the_largest_value_of_every_setting(deploy: Deploy) -> None:
    short = {"shards": 16, "heartbeat_seconds": LARGEST["heartbeat_seconds"] - 1}
    deployment = deploy(**LARGEST | short, history_keep="last:999999999999")
    worker = deployment.worker("one", pool="asyncio").wait_ready()

    assert deployment.start(flows.Chain, n=4).result(40) == 16
    held = deployment.start(flows.HeldOnLoop)
    deployment.await_effects("begun", run_id=held.run_id)
    worker.terminate()
    eventually(lambda: "Waiting for running tasks" in worker.log(), "the worker waits for its step")
    deployment.open_gate(held.run_id)
    worker.process.wait(40)
    assert "Traceback" not in worker.log()


def test_flower_does_not_get_what_kubernetes_sets_for_a_service_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_PORT", "tcp://10.0.0.3:5555")
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "me:word")
    flower._drop_injected()
    assert "FLOWER_PORT" not in os.environ
    assert os.environ["FLOWER_BASIC_AUTH"] == "me:word"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f'"redis://:{SECRET}@127.0.0.1:6379/0"', "it is in quotation marks"),
        (f"redis://:{SECRET}@127.0.0.1:6379/0\n", "a space or line break"),
        (f"redis://:pa@{SECRET}@127.0.0.1:6379/0", "an @ in its password is not written as %40"),
        (f"redis://:pa@x#{SECRET}@127.0.0.1:6379/0", "write / ? # @ % in its password"),
        (f"redis://:pa@x/{SECRET}@127.0.0.1:6379/0", "write / ? # @ % in its password"),
        (f"redis://:pa@x?{SECRET}=1@127.0.0.1:6379/0", "write / ? # @ % in its password"),
        (f"redis://:123?{SECRET}@127.0.0.1:6379/0", "write / ? # @ % in its password"),
        (f"redis://:123/{SECRET}@127.0.0.1:6379/0", "write / ? # @ % in its password"),
        (f"redis://user:123?{SECRET}=1@127.0.0.1:6379/0", "an option of it is for programs"),
        (f"sentinel://:pa@x/main?{SECRET}=1@127.0.0.1/0", "write / ? # @ % in its password"),
        (f"redis://:{SECRET}@127.0.0.1:6379/abc", "what follows its host is not the number of a database"),
        (f"redis://:{SECRET}@127.0.0.1:6379/1/2", "what follows its host is not the number of a database"),
        (f"rediss://:{SECRET}@127.0.0.1:6379/-1", "what follows its host is not the number of a database"),
        (f"redis://:{SECRET}@127.0.0.1:6379/0?family=0", "redis-py has no option 'family'"),
        (f"redis://:{SECRET}@127.0.0.1:6379/0?socket_timeout=soon", "socket_timeout"),
        (f"redis://:{SECRET}@127.0.0.1:6379/0?client_name=my%20shop", "its client_name has spaces"),
        (f"redis://:{SECRET}@127.0.0.1:6379/0?credential_provider=x", "an option of it is for programs"),
        (f"redis://:{SECRET}@127.0.0.1:6379/0?connection_class=x", "an option of it is for programs"),
        (
            f"sentinel://:{SECRET}@127.0.0.1:26379",
            "for Sentinel, sentinel://host1:26379,host2:26379/NAME/0",
        ),
        (f"redis+clusters://:{SECRET}@127.0.0.1:6379", "a Redis Cluster is redis+cluster://host1:6379,host2:6379/0"),
        (f"sentinel://:{SECRET}@127.0.0.1:six/main/0", "the port of '127.0.0.1:six' is not a number"),
        (f"sentinel://:{SECRET}/main?more@127.0.0.1/0", "write / ? # @ % in its password"),
        (f"redis://:{SECRET}@127.0.0.1:six", "its port is not a number"),
    ],
)
def test_an_unusable_redis_url_is_one_sentence_without_its_password(url: str, why: str) -> None:
    for act in (
        connect,
        lambda given: Runtime(Settings(redis_url=given)),
        lambda given: create_app(Settings(redis_url=given)),
    ):
        with pytest.raises(ConfigurationError, match="UMBEL_REDIS_URL is .* is not a Redis URL") as refused:
            act(url)
        assert why in str(refused.value)
        assert SECRET not in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (
            f"sentinel://:{SECRET}@127.0.0.1:26379;sentinel://:{SECRET}@127.0.0.2:26379",
            "sentinel://host1:26379,host2:26379/NAME/0",
        ),
        (f"'amqp://me:{SECRET}@here//'", "it is in quotation marks"),
        (f"amqp://me:pa@{SECRET}@here//", "not written as %40"),
        (f"amqp://me:pa@x/{SECRET}@here//", "write / ? # @ % in its password"),
        (f"redis://:{SECRET}@here/abc", "what follows its host is not the number of a database"),
        (f"rabbit://me:{SECRET}@here//", "Celery has no transport 'rabbit'"),
        ("here:5672", "it does not begin with redis:// or amqp://"),
    ],
)
def test_an_unusable_broker_url_is_one_sentence_without_its_password(url: str, why: str) -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1", broker_url=url)
    for act in (checked_broker, Runtime, create_app):
        with pytest.raises(ConfigurationError, match="UMBEL_BROKER_URL is .*which cannot be used: ") as refused:
            act(settings)  # type: ignore[operator]
        assert why in str(refused.value)
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://here",
        "redis://here/",
        "redis://me:word@here:1/3?health_check_interval=5",
        "redis://here/0?username=a@b&password=c@d",
        "unix:///run/a@b.sock?db=1",
        "sentinel://me:word@one:1,two/main/0",
        "redis+cluster://me:word@one,two",
    ],
)
def test_urls_in_their_proper_form_are_accepted(url: str) -> None:
    Runtime(Settings(redis_url=url, broker_url="amqp://me:word@here/%2Fshop")).close()


def test_a_password_of_a_cluster_is_refused_if_it_cuts_off_its_url() -> None:
    url = f"redis+cluster://:pa@x?{SECRET}=1@127.0.0.1:6379/0"
    with pytest.raises(ConfigurationError, match="write / . # @ % in its password") as refused:
        Runtime(Settings(redis_url=url, broker_url="amqp://here"))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("command", ["ping", "runs", "start", "worker"])
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:{0.password}@{0.hostname}:{0.port}/99999", "has no database of that number"),
        ("sentinel://:{0.password}@{0.hostname}:{0.port}/shop/0?sentinel_password={0.password}", "is not one: it does"),
    ],
)
def test_a_server_that_is_not_what_the_url_says_is_one_sentence(
    durable_redis_url: str, tmp_path: Path, url: str, why: str, command: str
) -> None:
    at = urlsplit(durable_redis_url)
    cli = Cli(tmp_path, UMBEL_REDIS_URL=url.format(at), PYTHONPATH=str(TESTS))
    targets = {"start": ["support.flows.everyday:Chain"], "worker": ["support.flows.everyday"]}.get(command, [])

    done = cli(command, *targets, fails=True)

    assert f" {why}" in done.err
    assert "Traceback" not in done.err
    assert str(at.password) not in done.err


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("unix://me:word@/run/redis.sock?db=2", "redis+socket://me:word@/run/redis.sock?virtual_host=2"),
        ("redis://here/1?db=2&health_check_interval=5", "redis://here/2"),
        ("redis://here?protocol=3&client_name=shop", "redis://here"),
        ("redis://here:1/3?username=me&password=a%2Fb%40", "redis://me:a%2Fb%40@here:1/3"),
        ("redis://:word@here:1/3?password=ignored", "redis://:word@here:1/3"),
        ("rediss://here/0?ssl_ca_certs=%2Fca.pem&socket_timeout=9", "rediss://here/0?ssl_ca_certs=%2Fca.pem"),
    ],
)
def test_the_broker_is_the_redis_of_the_state_in_the_words_of_kombu(url: str, broker: str) -> None:
    assert Settings(redis_url=url).broker == broker


def test_runs_go_over_a_unix_socket(deploy: Deploy, tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    server = subprocess.Popen(
        [
            str(find_server(search_path="")),
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--save",
            "",
            "--dir",
            str(tmp_path),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        deployment = deploy()
        url = f"unix://{socket}?db=1"
        deployment.worker("one", more={"UMBEL_REDIS_URL": url}, pool="solo").wait_ready()
        runtime = Runtime(deployment.settings.model_copy(update={"redis_url": url}))
        try:
            assert flows.Chain(runtime=runtime, timeout=None).start(n=4).result(40) == 16
        finally:
            runtime.close()
    finally:
        server.kill()
        server.wait()


def test_runs_go_over_a_url_with_options_of_redis_py(deploy: Deploy) -> None:
    deployment = deploy()
    url = f"{deployment.settings.redis_url}?protocol=3&decode_responses=true&health_check_interval=5&client_name=shop"
    deployment.worker("one", more={"UMBEL_REDIS_URL": url}, pool="asyncio").wait_ready()
    runtime = Runtime(deployment.settings.model_copy(update={"redis_url": url}))
    try:
        assert flows.Chain(runtime=runtime, timeout=None).start(n=4).result(40) == 16
    finally:
        runtime.close()


def test_a_node_of_a_cluster_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match=r"is a node of a Redis Cluster\. Write redis\+cluster://"):
        refuse_old_release({"redis_version": "7.4.1", "redis_mode": "cluster"}, "redis://here:6379")


def test_without_a_home_folder_a_sentence_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such user")))
    with pytest.raises(ConfigurationError, match="this user has none. Set UMBEL_STATE_DIR"):
        state_folder()


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # not a folder: nobody can create files below it, not even root
    environment = {"HOME": str(tmp_path / "file"), "PATH": os.environ["PATH"]}
    for command in (["runs"], ["run", "support.flows.everyday:Chain"]):
        done = subprocess.run(
            [sys.executable, "-m", "umbel.workers.cli", *command],
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "Error: " in done.stderr


def test_a_locale_without_utf_8_changes_neither_scripts_nor_results(tmp_path: Path) -> None:
    program = "from umbel import StartEvent, StopEvent, Workflow, step\n\n\nclass Greet(Workflow):\n    @step\n"
    program += (
        "    def greet(self, ev: StartEvent) -> StopEvent:\n        return StopEvent(result=f'{ev.name} \u20ac')\n"
    )
    (tmp_path / "greet.py").write_text(program, encoding="utf-8")
    (tmp_path / "name.json").write_text('{"name": "\u00c4nne"}', encoding="utf-8")
    cli = Cli(tmp_path, HOME=str(tmp_path), XDG_STATE_HOME=str(tmp_path), LC_ALL="C", PYTHONUTF8="0")

    done = cli("run", "greet.py:Greet", "--input", "@name.json", "--json")

    assert json.loads(done.out) == "\u00c4nne \u20ac"

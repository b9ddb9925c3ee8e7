"""The findings of `umbel doctor` on real servers that are misconfigured."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from support.processes.owner import client
from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine.leases import Leases
from umbel.orchestration.engine.worker_directory import seen_workers
from umbel.orchestration.inspection.long_running import long_running
from umbel.orchestration.model.commands import Command
from umbel.orchestration.model.decide import Limits, decide_start
from umbel.orchestration.model.envelope import START, STOP, Envelope
from umbel.orchestration.model.plan import Plan, StepPlan
from umbel.orchestration.model.releases import Release
from umbel.orchestration.model.work_item import Work
from umbel.orchestration.store.replies import Applied
from umbel.orchestration.store.scripts import pack, record_fields, unpack
from umbel.tasks.messages.dispatcher import transport_options
from umbel.workers.celery_app.app import create_app
from umbel.workers.doctor.examine import examine
from umbel.workers.doctor.redis_info import RedisInfo, ask_server
from umbel.workers.doctor.redis_rules import Finding, has_lua_fixes, judge_node, judge_server
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.transport.quarantine import set_aside

PLAN = Plan(
    workflow="shop.Order",
    start_event=START,
    stop_events=(STOP,),
    steps=(StepPlan(name="ship", task="Order.ship", accepts=(START,), returns=(STOP,), queue="slow"),),
)


@pytest.fixture
def settings() -> Iterator[Settings]:
    """A server for this test alone, because tests misconfigure it."""
    with EmbeddedRedis.temporary() as server:
        yield Settings(redis_url=server.url)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    made = blocking_store(settings)
    yield made
    made.client.close()
    made.portal.close()


def findings(settings: Settings, app: Celery | None = None, **options: Any) -> list[Finding]:
    return examine(settings, create_app(settings) if app is None else app, **options)


def grave(found: list[Finding]) -> list[str]:
    return [f"{each.about}: {each.text}" for each in found if each.level == "danger"]


def the(found: list[Finding], about: str) -> Finding:
    (one,) = [each for each in found if each.about == about]
    return one


def announce(
    store: Store, name: str, *, workflows: tuple[str, ...], queues: tuple[str, ...], ago: float = 0, **more: Any
) -> None:
    """Write a worker's entry in the worker directory."""
    seconds, _ = store.client.time()
    about = {"host": "h", "pid": 1, "pool": "prefork", "workflows": workflows, "queues": queues} | more
    seen_at = (seconds - ago) * 1000
    store.client.hset(store.keys.in_shard(0, "workers"), name, json.dumps(about | {"seen_at": seen_at}))


def begin(store: Store, run_id: str) -> str:
    """Start a run whose first step no worker claims; return the work item."""
    commands: list[Command] = decide_start(PLAN, run_id, Envelope(START, (), b"{}"), Limits())
    applied = store.start(run_id, PLAN, commands, nonce="n", timeout_seconds=None)
    assert isinstance(applied, Applied)
    return applied.dispatches[0].work_id


def test_an_embedded_server_is_sound(settings: Settings) -> None:
    found = findings(settings, is_embedded=True)

    assert grave(found) == []
    assert "two seconds" in the(found, "durability").text
    assert the(found, "worker").text == "No live worker: runs wait."
    assert all(each.fix for each in found if each.level in ("warning", "danger"))


@pytest.mark.parametrize(
    ("option", "value", "about", "level"),
    [
        ("appendonly", "no", "durability", "danger"),
        ("appendfsync", "no", "durability", "warning"),
        ("appendfsync", "always", "durability", "fine"),
        ("maxmemory-policy", "allkeys-lru", "memory", "warning"),
    ],
)
def test_a_setting_of_the_server_that_loses_data_is_found(
    settings: Settings, option: str, value: str, about: str, level: str
) -> None:
    with client(settings.redis_url or "") as connected:
        connected.config_set(option, value)

    found = the(findings(settings), about)

    assert found.level == level
    assert found.fix or level == "fine"


def test_eviction_is_a_danger_once_there_is_a_limit(settings: Settings) -> None:
    with client(settings.redis_url or "") as connected:
        connected.config_set("maxmemory", "1gb")
        connected.config_set("maxmemory-policy", "volatile-ttl")

    assert grave(findings(settings)) == ["memory: maxmemory-policy is volatile-ttl: a full server discards runs."]


def test_a_server_that_forbids_config_is_examined_all_the_same(settings: Settings) -> None:
    with client(settings.redis_url or "") as connected:
        may = {"keys": "*", "channels": "*", "commands": ["+@all", "-config"]}
        connected.acl_setuser("guest", enabled=True, passwords=["+guest"], **may)
    _, _, place = (settings.redis_url or "").partition("@")

    found = findings(settings.model_copy(update={"redis_url": f"redis://guest:guest@{place}"}))

    assert grave(found) == []
    assert "does not report its appendfsync" in the(found, "durability").text


def test_a_server_that_is_away_is_a_danger_without_its_password() -> None:
    settings = Settings(redis_url="redis://:secret@127.0.0.1:1/0")

    found = findings(settings)

    assert {each.about for each in found} == {"broker", "redis"}
    assert len(grave(found)) == 2
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("product", "version", "has_them"),
    [
        ("Redis", (7, 0, 15), False),
        ("Redis", (7, 2, 11), True),
        ("Redis", (8, 0, 3), False),
        ("Redis", (8, 2, 2), True),
        ("Redis", (8, 4, 0), True),
        ("Valkey", (7, 2, 10), False),
        ("Valkey", (8, 1, 4), True),
        ("Valkey", (9, 0, 0), True),
        ("Valkey", (9, 1, 0), True),
    ],
)
def test_releases_without_the_lua_fixes_of_2025_are_reported(
    product: str, version: tuple[int, ...], has_them: bool
) -> None:
    release = Release(product, version)
    server = RedisInfo(release, "master", True, False, "always", "noeviction", 1, 0)

    assert has_lua_fixes(release) == has_them
    assert the(list(judge_server(server, is_private=False)), "version").level == ("fine" if has_them else "warning")
    assert the(list(judge_server(server, is_private=True)), "version").level == "fine"


def test_a_server_that_is_too_old_or_a_replica_is_a_danger() -> None:
    server = RedisInfo(Release("Redis", (6, 2, 20)), "slave", True, True, None, "noeviction", 95, 100)

    found = list(judge_server(server, is_private=True))

    assert [each.about for each in found if each.level == "danger"] == ["version", "role", "durability"]
    assert "95 % of maxmemory" in the(found, "memory").text


#: A healthy server; each test breaks it in one way.
SOUND = RedisInfo(
    Release("Redis", (8, 4, 0)), "master", True, False, "always", "noeviction", 1, 100, 0, 0, "", False, True, ""
)


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({"appends": False, "saves": ""}, "danger", "loses every run: it writes no snapshots either"),
        ({"appends": False, "saves": "3600 1"}, "danger", "loses what was acknowledged since its last snapshot"),
        ({"appends": False, "saves": None}, "danger", "loses runs that were acknowledged"),
        ({"append_failed": True}, "danger", "could not write its append-only file"),
        ({"appendfsync": "no"}, "warning", "a power cut may take half a minute"),
        ({"skips_fsync": True}, "warning", "while the log is rewritten"),
        ({"loads_cut_log": False}, "warning", "may not start until its log has been repaired"),
        ({"role": "slave"}, "danger", "it takes no writes"),
        ({"is_cluster": True}, "danger", "a node of a Redis Cluster"),
        ({"replicas": 2, "min_replicas": 0}, "warning", "it keeps acknowledging changes"),
        ({"replicas": 2, "min_replicas": 1}, "note", "a failover may lose the changes acknowledged last"),
        ({"policy": "allkeys-lru"}, "danger", "a full server discards runs"),
        ({"policy": "allkeys-lru", "memory_limit": 0}, "warning", "would discard runs, if it had a limit"),
        ({"memory": 90}, "warning", "90 % of maxmemory is in use"),
        ({"memory_limit": 0}, "note", "maxmemory is not set"),
        ({"has_password": False, "is_protected": True}, "note", "only its own machine"),
        ({"has_password": False, "is_protected": False}, "danger", "anyone who reaches it owns the workflows"),
        (
            {"release": Release("Redis", (6, 2, 20))},
            "danger",
            "Redis 6.2.20 is too old: umbel needs Redis 7.0 or Valkey 7.2",
        ),
        ({"release": Release("Redis", (7, 0, 15))}, "warning", "CVE-2025-49844"),
    ],
)
def test_each_way_of_being_unfit_is_found_and_nothing_else(changes: dict[str, Any], level: str, text: str) -> None:
    (found,) = [each for each in judge_server(replace(SOUND, **changes), is_private=False) if each.level != "fine"]

    assert found.level == level
    assert text in found.text
    assert found.fix or level == "note"


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"node_timeout_seconds": 15.0}, "warning"),
        ({"node_timeout_seconds": 5.0, "covers_all": True}, "note"),
        ({"node_timeout_seconds": 5.0}, None),
        ({}, None),
    ],
)
def test_a_primary_of_a_cluster_that_is_replaced_after_a_lease_or_stops_all_others_is_found(
    changes: dict[str, Any], level: str | None
) -> None:
    found = list(judge_node(replace(SOUND, **changes), lease_seconds=15.0))

    assert [each.level for each in found] == ([] if level is None else [level])


@pytest.mark.parametrize("bind", ["127.0.0.1 -::1", "127.0.0.1", "::1 localhost"])
def test_a_server_without_a_password_that_only_its_own_machine_reaches_is_fit(bind: str) -> None:
    server = replace(SOUND, has_password=False, is_protected=False, bind=bind)

    assert [each for each in judge_server(server, is_private=False) if each.level != "fine"] == []


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("no-appendfsync-on-rewrite", "yes", "while the log is rewritten"),
        ("aof-load-truncated", "no", "may not start until"),
        ("save", "", ""),
    ],
)
def test_the_actual_server_settings_are_checked(settings: Settings, option: str, value: str, text: str) -> None:
    with client(settings.redis_url or "") as connected:
        connected.config_set(option, value)
        reported = ask_server(connected)

    found = [each.text for each in judge_server(reported, is_private=False) if each.about == "durability"]

    assert any(text in each for each in found)
    assert (reported.has_password, reported.is_protected, reported.bind) == (True, True, "127.0.0.1")
    assert (reported.is_cluster, reported.replicas, reported.min_replicas, reported.saves) == (False, 0, 0, "")


def test_workers_are_live_or_silent(settings: Settings, store: Store) -> None:
    announce(store, "here@h", workflows=("shop.Order",), queues=("umbel",))
    announce(store, "gone@h", workflows=("shop.Order",), queues=("umbel",), ago=100)

    found = [each for each in findings(settings) if each.about == "worker"]

    assert [each.level for each in found] == ["fine", "note"]
    assert found[0].text == "here@h serves shop.Order, from queues umbel"
    assert "gone@h has been silent for 10" in found[1].text
    assert [worker.is_live for worker in store.call(seen_workers, store)] == [False, True]


def test_unserved_runs_and_unclaimed_dispatches_are_reported(settings: Settings, store: Store) -> None:
    begin(store, "r1")
    begin(store, "r2")
    announce(store, "w@h", workflows=("shop.Refund",), queues=("umbel",))

    found = findings(settings)

    assert the(found, "runs").text == "2 running runs of shop.Order, which no live worker serves."
    assert "Queue 'slow': 2 steps dispatched and not claimed" in the(found, "queue").text
    assert "umbel worker TARGET --queues slow" in the(found, "queue").fix
    announce(store, "w@h", workflows=("shop.Order",), queues=("slow",))
    assert the(findings(settings), "queue").level == "fine"


def test_a_password_that_everybody_knows_is_found_and_not_shown(settings: Settings) -> None:
    url = settings.redis_url or ""
    with connect(url) as client:
        client.execute_command("ACL", "SETUSER", "default", "on", ">umbel")
    known = settings.model_copy(update={"redis_url": f"redis://:umbel@{url.partition('@')[2] or url[8:]}"})

    found = findings(known)

    assert the(found, "password").level == "warning"
    assert ":umbel@" not in the(found, "password").text
    assert not [each for each in findings(settings) if each.about == "password"]


def test_a_paused_queue_is_found_as_such(settings: Settings, store: Store) -> None:
    begin(store, "r1")
    announce(store, "w@h", workflows=("shop.Order",), queues=("umbel",), paused=("slow",))

    found = findings(settings)

    assert the(found, "worker").text == "w@h serves shop.Order, from queues umbel, slow (paused)"
    assert "It is paused: its consumer was cancelled in w@h." in the(found, "queue").text
    assert the(found, "queue").fix == "Resume it: celery control add_consumer slow"


def test_parked_work_is_found_by_workflow_and_step(settings: Settings, store: Store) -> None:
    work_id = begin(store, "r1")
    assert store.over(Leases).park("r1", work_id, "shop.Order", "ship")

    found = the(findings(settings), "parked")

    assert found.level == "warning"
    assert "Parked 1 step until a worker has the code: 'ship' of shop.Order (1)" in found.text


def test_steps_that_run_for_very_long_without_a_limit_are_reported(settings: Settings, store: Store) -> None:
    for run_id in ("r1", "r2"):
        work_id = begin(store, run_id)
        work = store.claim(run_id, work_id, 1, claim_id=new_id(), owner="w@h|host|42|x")
        assert isinstance(work, Work)
    assert store.call(long_running, store, 600) == []
    key = store.locate("r1")["work"]
    [(work_id, packed)] = store.client.hgetall(key).items()
    record = unpack(packed)
    record[record_fields()["claimed_at"]] -= 3_600_000
    store.client.hset(key, work_id, pack(record))

    found = the(findings(settings), "steps")

    assert "1 execution without a time limit running for more than 10 minutes" in found.text
    assert "of run 'r1', for 60 minutes, on w@h (process host:42)" in found.text
    assert [each.run_id for each in store.call(long_running, store, 0)] == ["r1", "r2"]


def test_forged_dispatches_are_reported(settings: Settings, store: Store) -> None:
    assert [each for each in findings(settings) if each.about == "dispatches"] == []
    store.client.hset(store.keys.in_shard(0, "counters"), "refused_messages", 3)

    assert the(findings(settings), "dispatches").text.startswith("Refused 3 messages")


def test_messages_that_were_set_aside_are_found(settings: Settings) -> None:
    prefix = str(transport_options(settings)["global_keyprefix"])
    with client(settings.redis_url or "") as connected:
        set_aside(connected, prefix, "umbel", b"nonsense", "expected JSON")

    found = the(findings(settings), "messages")

    assert "Quarantined 1 malformed message of queue 'umbel'" in found.text
    assert "expected JSON" in found.text


def test_a_custom_celery_app_is_examined_too(settings: Settings) -> None:
    app = Celery("shop", broker=settings.redis_url, set_as_current=False)
    app.conf.update(task_always_eager=True, accept_content=["pickle"], task_time_limit=30, worker_prefetch_multiplier=1)

    found = [each for each in findings(settings, app, is_own_app=False) if each.about == "celery"]

    assert [each.level for each in found] == ["danger", "danger", "warning"]
    assert "task_always_eager" in found[0].text
    assert "task_time_limit" in found[2].text


@pytest.mark.parametrize(
    ("url", "tls", "is_reported"),
    [
        ("rediss://127.0.0.1:1/0", None, True),
        ("rediss://127.0.0.1:1/0?ssl_cert_reqs=required", None, False),
        ("rediss://127.0.0.1:1/0", {"ssl_cert_reqs": ssl.CERT_REQUIRED}, False),
        ("redis://127.0.0.1:1/0", None, False),
    ],
)
def test_a_custom_broker_that_accepts_any_certificate_is_reported(
    settings: Settings, url: str, tls: dict[str, Any] | None, is_reported: bool
) -> None:
    app = Celery("shop", broker=url, set_as_current=False)
    app.conf.update(worker_prefetch_multiplier=1, broker_use_ssl=tls)

    found = [each.text for each in findings(settings, app, is_own_app=False) if each.about == "celery"]

    assert any("does not verify the certificate" in text for text in found) == is_reported

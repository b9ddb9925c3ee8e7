"""Redis Cluster: three primaries with a replica each hold the runs; a plain Redis is the broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import umbel
from support.eventually import eventually
from support.flows import apart, everyday, sessions, waiting
from support.processes.clusters import ClusterUnderTest
from support.processes.driving import QUICK, Deploy, Deployment, assert_committed_once
from umbel import ConfigurationError, Session, Settings
from umbel.orchestration.connection.cluster import Cluster, slot_of
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.connection.redis_client import RIGHTS
from umbel.orchestration.engine.pausing.workflows import held_steps
from umbel.orchestration.store.scripts import library
from umbel.tasks.client.runtime import Runtime
from umbel.tasks.messages.dispatcher import publishing_app
from umbel.workers.doctor.examine import examine, remove_unused_libraries
from umbel.workers.embedded.supervisor import Supervisor


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    with Supervisor() as supervisor:
        cluster = ClusterUnderTest(tmp_path_factory.mktemp("cluster"), supervisor, replicated=True)
        yield cluster
        cluster.close()


@pytest.fixture(scope="module")
def served(cluster: ClusterUnderTest, deploy_for_module: Deploy, durable_redis_url: str) -> Deployment:
    deployment = deploy_for_module(cluster.url, broker_url=durable_redis_url, **QUICK)
    targets = [f"support.flows.{each}" for each in ("everyday", "apart", "sessions", "waiting")]
    deployment.worker("one", *targets, pool="asyncio", concurrency=10).wait_ready()
    return deployment


def test_runs_in_all_shards_go_from_start_to_end_and_each_primary_has_the_functions(
    cluster: ClusterUnderTest, served: Deployment
) -> None:
    handlers = [served.start(everyday.Chain, n=n) for n in range(30)]
    fan = served.start(everyday.Fan, n=40)
    retried = served.start(everyday.Retried)

    assert [handler.result(40) for handler in handlers] == [n * n for n in range(30)]
    assert fan.result(40) == [40, sum(n * n for n in range(40))]
    assert retried.result(40) == 2
    assert_committed_once(served.executions(fan.run_id))
    owners = {cluster.owner_of(slot_of(served.store.locate(handler.run_id)["run"])) for handler in handlers}
    assert owners == set(cluster.primaries)
    for port in cluster.primaries:
        assert library().name.encode() in str(cluster.ask(port, "FUNCTION", "LIST")).encode()


def test_events_are_heard_live_and_answers_arrive(served: Deployment) -> None:
    live = served.start(everyday.Live)
    heard = []
    for event in live.events(timeout=40):
        if isinstance(event, everyday.Told):
            heard.append(event.text)
            served.open_gate(f"{live.run_id}-{len(heard)}")  # the step continues only after its event was received
    assert heard == ["from the loop", "from a plain step"]

    asked = served.start(waiting.Ask, n=3)
    served.await_effects("asked", run_id=asked.run_id)
    asked.send_event(waiting.Answer(n=3, text="yes"))
    assert asked.result(40) == [3, "yes"]


def test_what_reaches_over_shards_gets_there(served: Deployment) -> None:
    tree = served.start(apart.Tree, n=12)
    flow = apart.InTurn(runtime=served.runtime, timeout=None, num_concurrent_runs=1)
    in_turn = [flow.start(n=n, gate="in-turn") for n in range(4)]
    session, chat = Session("talk", served.runtime), sessions.Chat(runtime=served.runtime, timeout=None)
    talk = [session.run(chat, text=text) for text in ("one", "two", "three")]
    endless = served.start(everyday.Endless)
    served.await_effects("waiting", run_id=endless.run_id)
    assert endless.cancel()

    assert tree.result(40) == 2 * sum(range(12))
    assert [handler.result(40) for handler in talk] == [f"answer to {each}" for each in ("one", "two", "three")]
    served.open_gate("in-turn")
    assert sorted(handler.result(40) for handler in in_turn) == [0, 1, 2, 3]
    served.await_effects("cancelled", run_id=endless.run_id)


def test_a_paused_workflow_waits_in_all_shards_until_it_is_resumed(served: Deployment) -> None:
    runtime, worker = served.runtime, served.workers[0]
    umbel.pause("Chain", runtime=runtime)
    eventually(lambda: "begins steps of Chain no more" in worker.log(), "the worker follows")
    paused = [served.start(everyday.Chain, n=n) for n in range(30)]
    eventually(lambda: runtime.portal.call(held_steps(runtime.store, "Chain")) == 30, "the first step of each is held")
    assert served.start(everyday.Retried).result(40) == 2

    assert umbel.resume("Chain", runtime=runtime)
    assert [handler.result(40) for handler in paused] == [n * n for n in range(30)]
    assert runtime.portal.call(held_steps(runtime.store, "Chain")) == 0


def test_the_doctor_examines_each_primary(cluster: ClusterUnderTest, served: Deployment) -> None:
    found = examine(served.settings, publishing_app(served.settings))
    assert not [each for each in found if each.level == "danger"]
    unlimited = [each.text for each in found if "maxmemory is not set" in each.text]
    assert sorted(text.split(": ")[0] for text in unlimited) == sorted(
        f"127.0.0.1:{port}" for port in cluster.primaries
    )
    for port in cluster.primaries:
        cluster.ask(
            port, "FUNCTION", "LOAD", f"#!lua name=umbel_old{port}\nredis.register_function('f{port}', function() end)"
        )
    removed = remove_unused_libraries(served.settings)
    assert {f"umbel_old{port}" for port in cluster.primaries} <= set(removed)


def test_a_process_with_another_number_of_shards_reads_nothing(served: Deployment) -> None:
    runtime = Runtime(served.settings.model_copy(update={"shards": 8}))
    try:
        with pytest.raises(ConfigurationError, match="Set UMBEL_SHARDS=16"):
            everyday.Chain(runtime=runtime).start(n=1)
    finally:
        runtime.close()


@pytest.mark.parametrize("whole", [False, True], ids=["key by key", "at once"])
def test_runs_go_on_when_the_slot_of_their_shard_moves(
    cluster: ClusterUnderTest, served: Deployment, whole: bool
) -> None:
    session = Session(f"moving {whole}", served.runtime)
    held = session.run(everyday.HeldOnLoop(runtime=served.runtime, timeout=None))
    waits = session.run(everyday.Chain(runtime=served.runtime, timeout=None), n=5)
    served.await_effects("begun", run_id=held.run_id)
    slot = slot_of(served.store.locate(held.run_id)["run"])
    source = cluster.owner_of(slot)
    target = next(port for port in cluster.primaries if port != source)
    beside = [served.start(everyday.Chain, n=n, seconds=0.05) for n in range(8)]

    def end_it() -> None:
        served.open_gate(held.run_id)
        served.await_effects("ended", run_id=held.run_id)

    if whole:
        cluster.move_whole(slot, source, target)
        end_it()
    else:
        cluster.move(slot, source, target, between=end_it)

    assert held.result(40) == 1
    assert waits.result(40) == 25  # the script that ended the previous run has admitted it
    assert [handler.result(40) for handler in beside] == [n * n for n in range(8)]
    assert len(served.effects("begun", held.run_id)) == 1


def test_runs_go_on_at_the_replica_when_a_primary_is_killed(cluster: ClusterUnderTest, served: Deployment) -> None:
    held = served.start(everyday.HeldOnLoop)
    served.await_effects("begun", run_id=held.run_id)
    slot = slot_of(served.store.locate(held.run_id)["run"])
    before = [served.start(everyday.Chain, n=n, seconds=0.2) for n in range(10)]
    for port in cluster.primaries:
        assert cluster.await_replicas(port) == 1  # wait until both have the started runs
    killed = cluster.owner_of(slot)

    cluster.kill(killed)
    eventually(lambda: cluster.owner_of(slot) != killed, "the replica has the slots")

    after = [served.start(everyday.Chain, n=n, seconds=0.0) for n in range(10, 15)]
    served.open_gate(held.run_id)
    assert [handler.result(60) for handler in (*before, *after)] == [n * n for n in range(15)]
    assert held.result(40) >= 1
    cluster.start(killed)  # it is a replica from now on


def test_the_shards_of_other_primaries_go_on_while_one_is_away_with_its_replica(
    cluster: ClusterUnderTest, served: Deployment
) -> None:
    """The node is away for longer than a lease: a worker keeps what it holds elsewhere."""
    store, away = served.store, cluster.owner_of(slot_of(served.store.keys.tag(1)))

    def run_id(*, is_away: bool) -> str:
        ids = iter(new_id, "")
        return next(each for each in ids if (cluster.owner_of(slot_of(store.locate(each)["run"])) == away) is is_away)

    there, here = (served.start(everyday.HeldOnLoop, run_id=run_id(is_away=is_away)) for is_away in (True, False))
    for held in (there, here):
        served.await_effects("begun", run_id=held.run_id)
    leases = store.locate(here.run_id)["leases"]

    def renewed_at() -> float:
        return max(score for _, score in store.client.zrange(leases, 0, -1, withscores=True))

    eventually(lambda: cluster.await_replicas(away) == 1, "the replica has it too")
    replica = cluster.replica_of(away)
    since = renewed_at()
    for port in (replica, away):
        cluster.kill(port)
    retried = served.start(everyday.Retried, run_id=run_id(is_away=False))
    assert retried.result(40) == 2
    eventually(lambda: renewed_at() > since + 2_000 * served.settings.lease_seconds, "twice a lease has passed")
    served.open_gate(here.run_id)
    assert here.result(40) == 1  # its attempt

    cluster.start(away)
    cluster.start(replica)
    served.open_gate(there.run_id)
    assert there.result(60) >= 1


def test_a_user_with_the_fewest_rights_runs_workflows_and_with_less_is_asked_for_them(
    cluster: ClusterUnderTest, served: Deployment
) -> None:
    rights = RIGHTS.replace("umbel:", f"{served.settings.key_prefix}:").split()
    for port in (*cluster.primaries, *cluster.replicas):
        cluster.ask(port, "ACL", "SETUSER", "enough", "on", ">word", *rights, "+cluster|slots")
        cluster.ask(port, "ACL", "SETUSER", "less", "on", ">word", *rights)

    def result_for(user: str) -> Any:
        url = cluster.url_for(user, "word")
        runtime = Runtime(served.settings.model_copy(update={"redis_url": url}))
        try:
            return everyday.Chain(runtime=runtime, timeout=None).start(n=7).result(40)
        finally:
            runtime.close()

    assert result_for("enough") == 49
    with pytest.raises(ConfigurationError, match=r"'cluster\|slots'.* Grant, .* \+cluster\|slots"):
        result_for("less")


@pytest.mark.parametrize("broker", [None, "redis+cluster://here:6379"])
def test_a_cluster_is_no_broker_and_the_error_says_what_is(broker: str | None) -> None:
    settings = Settings(redis_url="redis+cluster://:secret@here:6379", broker_url=broker)
    with pytest.raises(ConfigurationError, match="cannot be Celery's broker.* Set UMBEL_BROKER_URL to ") as refused:
        Runtime(settings)
    assert "secret" not in str(refused.value)


def test_a_single_server_is_no_cluster(durable_redis_url: str) -> None:
    url = durable_redis_url.replace("redis://", "redis+cluster://")
    runtime = Runtime(Settings(redis_url=url, broker_url=durable_redis_url))
    try:
        with pytest.raises(ConfigurationError, match="is not a node of a Redis Cluster. Write redis://"):
            everyday.Chain(runtime=runtime).start(n=1)
    finally:
        runtime.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+cluster://:secret@one:6379,two:six/0", "the port of 'two:six' is not a number"),
        ("redis+cluster://:secret@one:6379/3", "a cluster has database 0 alone"),
        ("redis+cluster://:secret?more@one:6379", "write / \\? # @ % in its password"),
        ("redis+cluster://:secret@", "expected redis\\+cluster://"),
    ],
)
def test_a_url_that_is_none_is_one_sentence_without_its_password(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as refused:
        Cluster.of(url)
    assert "secret" not in str(refused.value)


def test_what_a_url_says() -> None:
    found = Cluster.of("rediss+cluster://me:p%40ss@one,[::1]:2/0?ssl_ca_certs=/ca")
    assert found is not None
    assert found.nodes == (("one", 6379), ("::1", 2))
    assert "p%40ss" not in repr(found)
    assert found.url_of(("::1", 2)) == "rediss://me:p%40ss@[::1]:2/0?ssl_ca_certs=/ca"

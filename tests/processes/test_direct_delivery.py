"""A dispatch that is delivered without Celery's consumer is seen, managed and returned like any other message."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from support.eventually import eventually
from support.flows import direct as flows
from support.flows.everyday import Broken
from support.processes.direct_delivery import (
    FLOWS,
    WAYS,
    announced,
    asked,
    deployed,
    held,
    looks,
    queued,
    remote_control,
    worker_of,
)
from support.processes.driving import Deploy
from umbel.workers.doctor.examine import examine

# -- monitoring -------------------------------------------------------------------------------------------------------


@WAYS
def test_remote_control_shows_running_and_waiting_steps(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way)
    worker_of(deployment)
    running = held(deployment, 2)
    assert {looks(deployment, handler)["way"] for handler in running} == {way}
    host = f"one@{socket.gethostname()}"
    with remote_control(deployment) as app:
        active = {each["args"][0]: each for each in asked(app, "active")}
        assert set(active) == {handler.run_id for handler in running}
        for handler in running:
            shown, seen = active[handler.run_id], looks(deployment, handler)["fields"]
            assert set(shown) == {
                *("id", "name", "args", "kwargs", "type", "hostname", "time_start"),
                *("acknowledged", "delivery_info", "worker_pid"),
            }
            assert (shown["id"], shown["name"], shown["hostname"]) == (seen["id"], "Looks.look", host)
            assert shown["acknowledged"] is False
            assert shown["worker_pid"] == deployment.workers[0].pid
            assert shown["delivery_info"]["routing_key"] == deployment.settings.queue
            assert asked(app, "query_task", shown["id"])[shown["id"]][0] == "active"
        assert asked(app, "reserved") == []
        assert asked(app, "scheduled") == []
        assert asked(app, "stats")["total"] == {"Looks.look": 2}
        for handler in running:
            deployment.open_gate(handler.run_id)
            handler.result(40)
        assert deployment.start(flows.Passes).result(40) == way
        eventually(lambda: asked(app, "active") == [], "nothing is running")
        assert asked(app, "stats")["total"] == {"Looks.look": 2, "Passes.go": 1}


@WAYS
def test_the_step_sees_the_same_request(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way)
    worker_of(deployment)
    [handler] = held(deployment, 1)
    seen = looks(deployment, handler)
    fields = seen["fields"]
    assert (seen["way"], seen["task"], seen["shown"]) == (way, "Looks.look", "<Context:")
    assert fields["args"][0] == handler.run_id
    assert fields["id"] == fields["root_id"] == fields["correlation_id"] == f"{fields['args'][1]}-1"
    assert fields["hostname"] == f"one@{socket.gethostname()}"
    assert fields["delivery_info"]["routing_key"] == deployment.settings.queue
    assert set(fields) >= {"lang", "task", "origin", "retries", "headers", "called_directly", "_protected", "timelimit"}
    assert (fields["called_directly"], fields["ignore_result"], fields["kwargs"]) == (False, True, {})
    assert fields["headers"]["umbel_workflow"] == f"{FLOWS}.Looks"
    deployment.open_gate(handler.run_id)
    assert handler.result(40) == fields["id"]


@WAYS
def test_both_ways_show_a_step_the_same_names(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way)
    worker_of(deployment)
    [handler] = held(deployment, 1)
    assert sorted(looks(deployment, handler)["fields"]) == sorted(
        [
            *("_protected", "args", "argsrepr", "called_directly", "callbacks", "chain", "chord", "correlation_id"),
            *("delivery_info", "errbacks", "eta", "expires", "group", "group_index", "headers", "hostname", "id"),
            *(
                "ignore_result",
                "kwargs",
                "kwargsrepr",
                "lang",
                "origin",
                "parent_id",
                "reply_to",
                "replaced_task_nesting",
            ),
            *("retries", "root_id", "shadow", "soft_time_limit", "stamped_headers", "stamps", "task", "time_limit"),
            *("timelimit", "umbel_workflow"),
        ]
    )


@WAYS
def test_a_continued_step_sees_a_request_of_its_own(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way, continuation_seconds=1000.0)
    worker_of(deployment)
    handler = deployment.start(flows.TwoSteps)
    task_id, arguments, *rest = handler.result(40)
    assert arguments[0] == handler.run_id
    assert task_id == f"{arguments[1]}-1"
    assert rest == [{}, task_id, {}, f"one@{socket.gethostname()}", False, "TaskRequest"]


@WAYS
def test_a_failure_is_logged_by_celery_as_well(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way)
    worker = worker_of(deployment)
    with pytest.raises(Broken, match=way):
        deployment.start(flows.Breaks).result(40)
    eventually(lambda: "raised expected: Broken(" in worker.log(), "Celery's line is there")


# -- management -------------------------------------------------------------------------------------------------------


@WAYS
def test_a_running_step_is_terminated_and_a_waiting_one_revoked(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way)
    worker = worker_of(deployment)
    running, other = held(deployment, 2)
    with remote_control(deployment) as app:
        task_id = looks(deployment, running)["fields"]["id"]
        [answer] = app.control.revoke(task_id, terminate=True, reply=True, timeout=20, limit=1)
        assert "terminate" in str(answer)
        eventually(lambda: {each["args"][0] for each in asked(app, "active")} == {other.run_id}, "only one runs")
        assert task_id in asked(app, "revoked")
        assert deployment.start(flows.Passes).result(40) == way  # its slot is free, and other runs are not affected
    assert deployment.effects("looked", running.run_id) == []
    assert worker.process.poll() is None


@WAYS
def test_a_worker_takes_no_more_than_it_may(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way, batched_fetch=False)
    worker_of(deployment)
    running = held(deployment, 2)
    waiting = [deployment.start(flows.Looks) for _ in range(6)]
    eventually(lambda: queued(deployment) == 6, "what there is no room for stays in the queue")
    with remote_control(deployment) as app:
        app.control.pool_grow(2, reply=True, timeout=20, limit=1)
        eventually(lambda: queued(deployment) == 4, "it takes as many more as it has grown by")
        eventually(lambda: len(asked(app, "active")) == 4, "four are running")
        app.control.pool_shrink(3, reply=True, timeout=20, limit=1)
        eventually(lambda: asked(app, "stats")["prefetch_count"] == 1, "it has shrunk")
        for handler in running:
            deployment.open_gate(handler.run_id)
            handler.result(40)
        eventually(lambda: len(asked(app, "active")) == 2, "two of them have ended")
        assert queued(deployment) == 4
    for handler in waiting:
        deployment.open_gate(handler.run_id)
    assert all(handler.result(40) for handler in waiting)


@WAYS
def test_a_worker_that_scales_itself_grows_with_its_messages(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way, batched_fetch=False)
    options = ["--autoscale", "4,1", "--loglevel", "INFO", "--without-mingle", "--without-gossip"]
    deployment.launch("one", "celery", "-A", "support.programs.asyncio_app", "worker", *options).wait_ready()
    handlers = held(deployment, 4)  # all four run at the same time
    assert {looks(deployment, handler)["way"] for handler in handlers} == {way}
    more = deployment.start(flows.Passes)
    with remote_control(deployment) as app:
        assert asked(app, "stats")["autoscaler"]["current"] == 4
    for handler in handlers:
        deployment.open_gate(handler.run_id)
        assert handler.result(40)
    assert more.result(40) == way


@WAYS
def test_steps_that_wait_for_a_slot_are_reserved_and_can_be_revoked(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way, batched_fetch=False)
    options = ["--concurrency", "1", "--prefetch-multiplier", "4", "--loglevel", "INFO", "--without-mingle"]
    worker = deployment.launch("one", "celery", "-A", "support.programs.asyncio_app", "worker", *options).wait_ready()
    [running] = held(deployment, 1)
    waiting = [deployment.start(flows.Passes) for _ in range(4)]
    eventually(lambda: queued(deployment) == 1, "it has taken three more")
    with remote_control(deployment) as app:
        reserved = {each["args"][0]: each for each in asked(app, "reserved")}
        assert set(reserved) == {handler.run_id for handler in waiting[:3]}
        assert {each["time_start"] for each in reserved.values()} == {None}
        task_id = reserved[waiting[1].run_id]["id"]
        assert asked(app, "query_task", task_id)[task_id][0] == "reserved"
        app.control.revoke(task_id, terminate=True, reply=True, timeout=20, limit=1)
        deployment.open_gate(running.run_id)
        assert [handler.result(40) for handler in (waiting[0], waiting[2], waiting[3])] == [way] * 3
        eventually(lambda: asked(app, "reserved") == [] == asked(app, "active"), "none waits or runs")
        assert asked(app, "query_task", task_id) == {}
    assert not waiting[1].is_done()
    assert worker.process.poll() is None


@WAYS
def test_a_queue_whose_consumer_is_cancelled_is_left_alone(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way)
    worker_of(deployment)
    assert deployment.start(flows.Passes).result(40) == way
    with remote_control(deployment) as app:
        about = {"reply": True, "timeout": 20, "limit": 1}
        app.control.cancel_consumer(deployment.settings.queue, **about)
        eventually(lambda: asked(app, "active_queues") == [], "it consumes nothing")
        eventually(lambda: announced(deployment).paused == (deployment.settings.queue,), "it says so")
        handlers = [deployment.start(flows.Passes) for _ in range(5)]
        # Messages taken by the poll in progress are put back.
        eventually(lambda: queued(deployment) == 5, "all of them stay in the queue")
        app.control.add_consumer(deployment.settings.queue, **about)
        eventually(lambda: queued(deployment) == 0, "it consumes again")
        eventually(lambda: announced(deployment).queues == (deployment.settings.queue,), "it says so again")
    assert {handler.result(40) for handler in handlers} == {way}


@WAYS
def test_a_rate_limit_holds_steps_back(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way)
    worker_of(deployment)
    assert deployment.start(flows.Passes).result(40) == way
    with remote_control(deployment) as app:
        app.control.rate_limit("Passes.go", "1/h", reply=True, timeout=20, limit=1)
        first, second = deployment.start(flows.Passes), deployment.start(flows.Passes)
        assert first.result(40) == "ordinary"
        assert not second.is_done()
        app.control.rate_limit("Passes.go", "0", reply=True, timeout=20, limit=1)
        eventually(lambda: deployment.start(flows.Passes).result(40) == way, "there is no limit any more")


def test_task_events_that_are_enabled_meanwhile_include_the_next_message(deploy: Deploy) -> None:
    deployment = deployed(deploy, "direct")
    worker_of(deployment)
    assert deployment.start(flows.Passes).result(40) == "direct"
    with remote_control(deployment) as app, app.connection_for_read() as connection:
        seen: list[dict[str, Any]] = []
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        thread = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=None, wakeup=True))
        thread.start()
        try:
            eventually(lambda: any(each["type"] == "worker-heartbeat" for each in seen), "the monitor hears the worker")
            app.control.enable_events(reply=True, timeout=20, limit=1)
            assert deployment.start(flows.Passes).result(40) == "ordinary"
            kinds = ["task-received", "task-started", "task-succeeded"]
            eventually(lambda: [e["type"] for e in seen if e["type"].startswith("task")] == kinds, "all are seen")
            app.control.disable_events(reply=True, timeout=20, limit=1)
            assert deployment.start(flows.Passes).result(40) == "direct"
        finally:
            receiver.should_stop = True
            thread.join()


def test_the_doctor_and_the_log_name_what_switches_it_off(deploy: Deploy) -> None:
    deployment = deployed(deploy, "direct")
    worker = worker_of(deployment)

    def detours() -> tuple[str, ...]:
        seen = announced(deployment)
        return seen.detours

    with remote_control(deployment) as app:
        about = {"reply": True, "timeout": 20, "limit": 1}
        eventually(lambda: detours() == (), "nothing is in the way")
        app.control.rate_limit("Passes.go", "1/h", **about)
        eventually(lambda: detours() == ("Passes.go has a rate limit",), "one step has a rate limit")
        app.control.enable_events(**about)
        eventually(lambda: detours() == ("task events are enabled",), "nothing is delivered directly")
        [note] = [each for each in examine(deployment.settings, app) if "Celery's consumer" in each.text]
        assert (note.level, note.about) == ("note", "worker")
        assert note.text.endswith("which takes more processor time: task events are enabled.")
        app.control.disable_events(**about)
        app.control.rate_limit("Passes.go", "0", **about)
        eventually(lambda: "Direct delivery is on." in worker.log(), "it is on again")
    assert "Direct delivery is off, which takes more processor time per message: task events" in worker.log()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"log_level": "DEBUG"}, "the log level is DEBUG"),
        ({"events": True}, "task events are enabled"),
        ({"targets": "support.flows.continuation"}, "Celery's signal task_prerun has receivers"),
    ],
)
def test_what_watches_every_message_gets_every_message(deploy: Deploy, options: dict[str, Any], reason: str) -> None:
    deployment = deployed(deploy, "direct")
    targets = [FLOWS, options.pop("targets")] if "targets" in options else [FLOWS]
    worker = deployment.worker("one", *targets, pool="asyncio", **options).wait_ready()
    assert deployment.start(flows.Passes).result(40) == "ordinary"
    eventually(lambda: reason in worker.log(), "the log says why")

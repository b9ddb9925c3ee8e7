"""A process is declared dead before its lease expires only if the same kernel confirms it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import LONG_LEASES, Deploy, Deployment
from support.processes.namespaces import in_own_mounts
from umbel.orchestration.engine.worker_directory import SeenWorker, forget_silent, seen_workers
from umbel.tasks.owner.names import owner_name, process_is_dead

NAMES_ITSELF = "from umbel.tasks.owner.names import owner_name; print(owner_name('w'), flush=True); input()"
JUDGES = "import sys; from umbel.tasks.owner.names import process_is_dead; print(process_is_dead(sys.argv[1]))"


@contextmanager
def owner_elsewhere(*within: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the owner name of a live process, and the process."""
    command = [*within, sys.executable, "-c", NAMES_ITSELF]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def announced(deployment: Deployment) -> list[SeenWorker]:
    return deployment.runtime.portal.call(seen_workers(deployment.runtime.store))


def judged_within(within: list[str], owner: str) -> str:
    command = [*within, sys.executable, "-c", JUDGES, owner]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_killed_process_of_this_boot_is_dead_even_before_its_parent_has_noticed() -> None:
    with owner_elsewhere() as (owner, process):
        assert not process_is_dead(owner)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_is_dead(owner)
        process.wait()
        assert process_is_dead(owner)


def test_a_process_whose_pid_now_belongs_to_another_is_dead() -> None:
    worker, host, pid, incarnation = owner_name("w").split("|")
    started, _, nonce = incarnation.partition("-")
    assert not process_is_dead(f"{worker}|{host}|{pid}|{started}-{nonce}")
    assert process_is_dead(f"{worker}|{host}|{pid}|{int(started) - 1}-{nonce}")


def test_a_process_of_another_machine_with_the_same_host_name_is_not_declared_dead(tmp_path: Path) -> None:
    """The inode of the first pid namespace, and often the pid, are the same numbers on all machines."""
    (tmp_path / "boot_id").write_text("7c3f3a4e-0000-4000-8000-000000000000\n")
    other_boot = in_own_mounts((tmp_path / "boot_id", "/proc/sys/kernel/random/boot_id"))
    with owner_elsewhere(*other_boot) as (owner, process):
        process.kill()
        process.wait()
        assert owner.split("|")[1].startswith(f"{os.uname().nodename}.")
        assert not process_is_dead(owner)
        assert judged_within(other_boot, owner) == "True"  # on that machine, it would be


def test_a_process_that_proc_does_not_show_is_not_declared_dead(tmp_path: Path) -> None:
    """As with `hidepid=2`, or systemd's `ProtectProc=invisible`."""
    with owner_elsewhere() as (owner, process):
        hidden = in_own_mounts((tmp_path, f"/proc/{process.pid}"))
        assert judged_within(hidden, owner) == "False"
        process.kill()
        process.wait()
        assert process_is_dead(owner)


@pytest.mark.parametrize(
    "tail",
    [
        "{host}|{pid}|0123456789ab",
        "{old_host}|{pid}|0123456789ab",
        "{host}||1-ab",
        "{host}|-1|1-ab",
        "{host}|0|1-ab",
        "",
    ],
    ids=["no start", "of the release before", "no pid", "every process", "this group", "no parts"],
)
def test_a_name_that_proves_nothing_is_left_to_its_lease(tail: str) -> None:
    host = owner_name("w").split("|")[1]
    old_host = f"{os.uname().nodename}.{os.stat('/proc/self/ns/pid').st_ino}"
    with owner_elsewhere() as (_, process):
        process.kill()
        process.wait()
        assert not process_is_dead("w|" + tail.format(host=host, old_host=old_host, pid=process.pid))


def test_workers_that_hide_their_processes_from_each_other_leave_each_others_steps_alone(
    deploy: Deploy, tmp_path: Path
) -> None:
    deployment = deploy(**LONG_LEASES)
    first = deployment.worker("first", pool="asyncio").wait_ready()
    held = deployment.start(flows.Held)
    deployment.await_effects("begun", run_id=held.run_id)
    hidden = in_own_mounts((tmp_path, f"/proc/{first.pid}"))
    options = ["--name", "second", "--pool", "asyncio", "--concurrency", "2"]
    deployment.launch("second", "umbel.workers.cli", "worker", "support.flows.everyday", *options, within=hidden)
    # A sweep pass looks for dead processes first, and then announces the worker.
    eventually(lambda: any("second" in each.name for each in announced(deployment)), "the second worker sweeps")
    assert deployment.counter("losses") == 0
    first.kill_main()
    again = deployment.await_effects("begun", 2, held.run_id)
    assert [each["attempt"] for each in again] == [1, 2]
    deployment.open_gate(held.run_id)
    assert held.result(40) == 2


def test_a_worker_that_was_killed_is_forgotten_after_a_while_and_one_that_lives_is_not(deploy: Deploy) -> None:
    deployment = deploy()
    client, directory = deployment.store.client, deployment.store.keys.in_shard(0, "workers")
    deployment.worker("living", pool="solo").wait_ready()
    eventually(lambda: [each.name for each in announced(deployment)] != [], "it is announced")
    ((name, about),) = client.hgetall(directory).items()
    for killed, silent_seconds in (("an-hour-ago", 3600), ("a-minute-ago", 60)):
        seen_at = json.loads(about)["seen_at"] - 1000 * silent_seconds
        client.hset(directory, killed, json.dumps(json.loads(about) | {"seen_at": seen_at}))

    deployment.worker("next", pool="solo").wait_ready()

    eventually(lambda: "an-hour-ago" not in {each.name for each in announced(deployment)}, "it is forgotten")
    found = {each.name: each.is_live for each in announced(deployment)}
    assert found.pop("a-minute-ago") is False
    assert found.pop(name.decode()) is True
    deployment.runtime.portal.call(forget_silent(deployment.runtime.store))
    assert name.decode() in {each.name for each in announced(deployment)}

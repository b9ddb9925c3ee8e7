"""Extreme values are refused by name where they are sent, or arrive unchanged; no other run is affected."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from support.eventually import eventually
from support.flows import extreme as flows
from support.processes.driving import LONG_LEASES, Deploy, Deployment
from umbel import PayloadTooLarge, UnserializableValue, WorkflowHandler

#: Ways out of a step that show the value afterwards.
DOORS = ("returned", "sent", "stored", "result")


@pytest.fixture(scope="module")
def deployment(deploy_for_module: Deploy) -> Deployment:
    made = deploy_for_module(**LONG_LEASES)
    made.worker("one", "support.flows.extreme", pool="asyncio", concurrency=10).wait_ready()
    return made


def started(deployment: Deployment, names: Iterable[str], *doors: str) -> list[tuple[str, str, WorkflowHandler]]:
    """Start a run for each value and way."""
    return [
        *((name, door, deployment.start(flows.Doors, name=name, door=door)) for name in names for door in doors),
        *((name, "fanned out", deployment.start(flows.FansOut, name=name)) for name in names),
    ]


def test_what_json_can_carry_arrives_as_it_was(deployment: Deployment) -> None:
    for name, door, handler in started(deployment, flows.CARRIED, *DOORS):
        assert repr(handler.result(60)) == repr(flows.value_of(name)), (name, door)


def test_what_it_cannot_carry_fails_its_step_with_what_and_where(deployment: Deployment) -> None:
    for name, door, handler in started(deployment, flows.REFUSED, *DOORS, "published", "required"):
        with pytest.raises((UnserializableValue, PayloadTooLarge), match=f"(?i){flows.REFUSED[name][1]}") as refused:
            handler.result(60)
        assert len(str(refused.value)) < 2_000, (name, door)
        ending = handler.get_stop_event()
        assert (ending.step_name, ending.attempts) == ("send", 1), (name, door)


def test_what_a_start_event_cannot_carry_is_refused_before_there_is_a_run(deployment: Deployment) -> None:
    before = len(deployment.store.runs(limit=1000))
    for name, (_, text) in flows.REFUSED.items():
        with pytest.raises((UnserializableValue, PayloadTooLarge), match=f"(?i){text}"):
            deployment.start(flows.Doors, value=flows.value_of(name))
    with pytest.raises(PayloadTooLarge, match="it has 104,8.* bytes, at most 16,777,216 are allowed"):
        deployment.start(flows.Doors, value="x" * (100 << 20))
    assert len(deployment.store.runs(limit=1000)) == before


def test_what_an_event_from_outside_cannot_carry_is_refused_to_its_sender(deployment: Deployment) -> None:
    handler = deployment.start(flows.Doors, name="2^63", door="required")
    eventually(lambda: deployment.store.surroundings(handler.run_id).waiters, "it waits")
    for name, (_, text) in flows.REFUSED.items():
        with pytest.raises((UnserializableValue, PayloadTooLarge), match=f"(?i){text}"):
            handler.send_event(flows.Answer(key=flows.value_of(name)))
    handler.send_event(flows.Answer(key=2**63 + 1))
    handler.send_event(flows.Answer(key=2**63))
    assert handler.result(40) == "answered"


@pytest.mark.parametrize("as_argument", [False, True])
def test_an_exception_with_a_huge_text_is_kept_cut_off(deployment: Deployment, as_argument: bool) -> None:
    handler = deployment.start(flows.Wordy, size=4 << 20, as_argument=as_argument)
    eventually(handler.is_done, "it has failed")
    record = deployment.store.run(handler.run_id)
    assert record.status == "failed"
    assert record.ending is not None
    assert len(record.ending.to_bytes()) < 1 << 20
    assert len(deployment.store.journal(handler.run_id)) < 10
    with pytest.raises(Exception, match="xxx"):
        handler.result(10)

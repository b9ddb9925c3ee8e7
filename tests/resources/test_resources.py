"""Resources in executed steps: injected, kept across steps and runs, recreated, retried, replaced by doubles."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from umbel import Context, Event, StartEvent, StepTimeoutError, StopEvent, Workflow, WorkflowValidationError, step
from umbel import retry_policy as policy
from umbel.tasks.resources.config import ResourceConfig
from umbel.tasks.resources.resolution import ResourceManager
from umbel.tasks.resources.resource import Resource
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed

pytestmark = pytest.mark.usefixtures("runtime")


class Item(Event):
    n: int


class Seen(Event):
    key: int


class Client:
    """A client that records the loop on which it was created."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop


class Making:
    """A plain and an async factory that record what they create."""

    def __init__(self) -> None:
        self.made: list[Client] = []

    def plain(self) -> Client:
        self.made.append(Client())
        return self.made[-1]

    async def on_loop(self) -> Client:
        self.made.append(Client(asyncio.get_running_loop()))
        return self.made[-1]


async def test_async_and_plain_steps_are_given_one_value_over_all_runs() -> None:
    making = Making()
    factories = (making.plain, making.on_loop)

    class Flow(Workflow):
        @step
        async def one(
            self,
            plain: Annotated[Client, Resource(factories[0])],
            ev: StartEvent,
            on_loop: Annotated[Client, Resource(factories[1])],
        ) -> Item:
            seen.append((plain, on_loop))
            return Item(n=1)

        @step
        def two(
            self,
            ev: Item,
            plain: Annotated[Client, Resource(factories[0])],
            on_loop: Annotated[Client, Resource(factories[1])],
        ) -> StopEvent:
            seen.append((plain, on_loop))
            return StopEvent()

    seen: list[tuple[Client, Client]] = []
    flow = Flow()
    await flow.run()
    await flow.run()

    assert len(seen) == 4
    assert len(making.made) == 2
    assert all(each == (making.made[0], making.made[1]) for each in seen)
    assert making.made[1].loop is asyncio.get_running_loop()


async def test_each_workflow_instance_makes_its_own_unless_they_share_a_manager() -> None:
    making = Making()
    factory = making.plain

    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent, client: Annotated[Client, Resource(factory)]) -> StopEvent:
            return StopEvent(result=making.made.index(client))

    assert [await Flow().run(), await Flow().run()] == [0, 1]
    manager = ResourceManager()
    assert [await Flow(resource_manager=manager).run(), await Flow(resource_manager=manager).run()] == [2, 2]


def test_a_workflow_that_is_run_from_one_event_loop_after_the_other_gets_a_client_for_each() -> None:
    making = Making()
    factories = (making.on_loop, making.plain)

    class Flow(Workflow):
        @step
        async def go(
            self,
            ev: StartEvent,
            client: Annotated[Client, Resource(factories[0])],
            other: Annotated[Client, Resource(factories[1])],
        ) -> StopEvent:
            assert client.loop is asyncio.get_running_loop()
            plain.append(other)
            return StopEvent()

    async def run() -> None:
        await flow.run()

    plain: list[Client] = []
    flow = Flow()
    asyncio.run(run())
    asyncio.run(run())
    flow.start().result(30)

    assert len({each.loop for each in making.made if each.loop}) == 3
    assert plain[0] is plain[1] is plain[2]


async def test_what_is_not_kept_is_made_for_each_execution_and_shared_by_all_it_needs() -> None:
    made: list[int] = []

    def number() -> int:
        made.append(len(made))
        return made[-1]

    def double(number: Annotated[int, Resource(number, cache=False)]) -> int:
        return 2 * number

    class Flow(Workflow):
        @step(retry_policy=policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
        async def go(
            self,
            ctx: Context,
            ev: StartEvent,
            once: Annotated[int, Resource(number, cache=False)],
            again: Annotated[int, Resource(number, cache=False)],
            doubled: Annotated[int, Resource(double, cache=False)],
        ) -> StopEvent:
            if ctx.attempt == 1:
                raise ValueError("once more")
            return StopEvent(result=[once, again, doubled])

    assert await Flow().run() == [1, 1, 2]
    assert made == [0, 1]


class Smtp(BaseModel):
    host: str
    port: int = 25


async def test_a_step_is_given_a_config_and_what_is_made_of_it(tmp_path: Path) -> None:
    app_json = tmp_path / "app.json"
    app_json.write_text(json.dumps({"mail": {"smtp": {"host": "mail.example"}}}))
    file = str(app_json)

    async def mailer(smtp: Annotated[Smtp, ResourceConfig(file, "mail.smtp")]) -> str:
        return f"mailer for {smtp.host}"

    class Flow(Workflow):
        @step
        def go(
            self,
            ev: StartEvent,
            smtp: Annotated[Smtp, ResourceConfig(file, "mail.smtp")],
            mailer: Annotated[str, Resource(mailer)],
        ) -> StopEvent:
            return StopEvent(result=[smtp.port, mailer])

    assert await Flow().run() == [25, "mailer for mail.example"]


async def test_a_run_is_refused_when_a_config_does_not_fit(tmp_path: Path) -> None:
    app_json = tmp_path / "app.json"
    app_json.write_text('{"mail": {"port": "none"}}')
    file = str(app_json)

    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent, smtp: Annotated[Smtp, ResourceConfig(file, "mail")]) -> StopEvent:
            return StopEvent(result=smtp.host)

    flow = Flow()
    with pytest.raises(WorkflowValidationError, match=r"step 'go', parameter 'smtp'.*does not fit Smtp: host: Field"):
        flow.run()

    app_json.write_text('{"mail": {"host": "mail.example"}}')
    assert await flow.run() == "mail.example"


async def test_a_factory_that_fails_fails_the_attempt_and_the_next_one_calls_it_again() -> None:
    calls: list[int] = []

    async def connect() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError(f"refused {len(calls)}")
        return "connected"

    class Flow(Workflow):
        @step(retry_policy=policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
        def go(self, ctx: Context, ev: StartEvent, db: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent(result=[db, ctx.attempt, str(ctx.retry_info().last_exception)])

    assert await Flow().run() == ["connected", 3, "refused 2"]


async def test_without_a_retry_policy_the_caller_sees_what_the_factory_raised() -> None:
    def connect() -> str:
        raise ConnectionRefusedError("nobody listens")

    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent, db: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent(result=db)

    with pytest.raises(ConnectionRefusedError, match="nobody listens"):
        await Flow().run()


async def test_making_a_resource_counts_against_the_steps_time_limit() -> None:
    async def connect() -> str:
        await asyncio.sleep(3600)
        return "never"

    class Flow(Workflow):
        @step(timeout=0.2)
        async def go(self, ev: StartEvent, db: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent(result=db)

    with pytest.raises(StepTimeoutError, match="'go'"):
        await Flow().run()


@pytest.mark.parametrize("colour", ["async", "plain"])
async def test_steps_that_need_a_slow_resource_at_the_same_time_share_one_and_none_fails(colour: str) -> None:
    steps = 20
    asked: list[int] = []
    made: list[Client] = []
    all_asked = threading.Event()

    def ask() -> int:
        asked.append(1)
        if len(asked) == steps:
            all_asked.set()
        return len(asked)

    async def connect() -> Client:
        await asyncio.to_thread(all_asked.wait, 30)
        made.append(Client())
        return made[-1]

    async def slow(client: Annotated[Client, Resource(connect)]) -> Client:
        return client

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(steps)]

        @step
        async def join(self, evs: list[Seen]) -> StopEvent:
            return StopEvent(result=[ev.key for ev in evs])

    if colour == "async":

        @step(workflow=Flow, num_workers=steps)
        async def use(
            ev: Item, n: Annotated[int, Resource(ask, cache=False)], client: Annotated[Client, Resource(slow)]
        ) -> Seen:
            return Seen(key=id(client))
    else:

        @step(workflow=Flow, num_workers=steps)
        def use(
            ev: Item, n: Annotated[int, Resource(ask, cache=False)], client: Annotated[Client, Resource(slow)]
        ) -> Seen:
            return Seen(key=id(client))

    assert await Flow().run() == [id(made[0])] * steps
    assert len(made) == 1


async def test_a_double_takes_the_place_of_a_resource() -> None:
    def connect() -> Any:
        raise AssertionError("a test must not connect")

    def repository(db: Annotated[Any, Resource(connect)]) -> str:
        return f"repository on {db}"

    class Flow(Workflow):
        @step
        async def go(
            self,
            ev: StartEvent,
            db: Annotated[Any, Resource(connect)],
            repository: Annotated[str, Resource(repository)],
        ) -> StopEvent:
            return StopEvent(result=[db, repository])

    manager = ResourceManager()
    manager.set("connect", "a double")

    assert await Flow(resource_manager=manager).run() == ["a double", "repository on a double"]
    assert manager.get_all()["connect"] == "a double"


async def test_a_circle_is_an_error_of_the_run_without_validation_too() -> None:
    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent, n: Annotated[int, Resource(egg)]) -> StopEvent:
            return StopEvent(result=n)

    with pytest.raises(ValueError, match="^Circular resource dependency detected: egg -> hen -> egg$"):
        Flow().run()
    with pytest.raises(ValueError, match="^Circular resource dependency detected: egg -> hen -> egg$"):
        await Flow(disable_validation=True).run()


def egg(hen: Annotated[int, Resource(hen)]) -> int:
    return hen


def hen(egg: Annotated[int, Resource(egg)]) -> int:
    return egg

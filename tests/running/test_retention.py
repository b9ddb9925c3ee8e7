"""How long ended runs are kept if their workflow sets it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import umbel
from umbel import Context, Event, Runtime, StartEvent, StopEvent, Workflow, step
from umbel.errors import WorkflowValidationError
from umbel.orchestration.connection.redis_client import connect

DAY_MS = 86_400_000


class Checked(Event):
    pass


class Kept(Workflow, retention=timedelta(days=30)):
    failing = True

    @step
    async def check(self, ctx: Context[Any], ev: StartEvent) -> Checked:
        await ctx.store.set("seen", 1)
        return Checked()

    @step
    async def charge(self, ctx: Context[Any], ev: Checked) -> StopEvent:
        if self.failing:
            raise OSError("declined")
        return StopEvent(result="charged")


class KeptToo(Kept):
    failing = False


def lifetimes(runtime: Runtime, name: str) -> set[int]:
    """Return the TTL in days, rounded up, of all keys with this in their names: a run's id also matches its state."""
    client = connect(runtime.settings.redis_url)
    names = list(client.scan_iter(match=f"{runtime.settings.key_prefix}:*{name}*", count=1000))
    # Replies are kept for a minute, the list of forks as long as the settings say.
    left = {name: client.pttl(name) for name in names if b":answer" not in name and b":forks:" not in name}
    client.close()
    assert left
    return {-1 if milliseconds == -1 else -(-milliseconds // DAY_MS) for milliseconds in left.values()}


def test_a_run_is_kept_as_long_as_its_class_says_or_its_instance(runtime: Runtime) -> None:
    of_class, of_instance = KeptToo().run(), KeptToo().with_options(retention=2 * 86400, tags=["kept"]).run()

    assert (of_class.result(10), of_instance.result(10)) == ("charged", "charged")

    assert lifetimes(runtime, of_class.run_id) == {30}
    assert lifetimes(runtime, of_instance.run_id) == {2}


async def test_a_retry_a_rewind_and_a_fork_keep_it(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Kept().run()
    with pytest.raises(OSError, match="declined"):
        await handler
    assert lifetimes(runtime, handler.run_id) == {30}
    monkeypatch.setattr(Kept, "failing", False)

    umbel.retry_runs([handler.run_id])
    assert await umbel.attach(handler.run_id) == "charged"
    assert lifetimes(runtime, handler.run_id) == {30}

    await umbel.attach(handler.run_id).rewind("before charge")
    fork = await umbel.attach(handler.run_id).fork("before charge")
    assert (await umbel.attach(handler.run_id), await fork) == ("charged", "charged")
    assert (lifetimes(runtime, handler.run_id), lifetimes(runtime, fork.run_id)) == ({30}, {30})


def test_a_session_keeps_its_own_time(runtime: Runtime) -> None:
    handler = umbel.session("kept").run(KeptToo())
    assert handler.result(10) == "charged"

    assert lifetimes(runtime, handler.run_id) == {30}
    assert lifetimes(runtime, "handler:kept") == {7}
    assert lifetimes(runtime, "state:kept") == {7}


@pytest.mark.parametrize("retention", [0, -1, float("nan"), float("inf"), "7d", True, timedelta(0), 1e11])
def test_a_retention_that_is_no_duration_is_refused(retention: Any) -> None:
    with pytest.raises(WorkflowValidationError, match="retention must be a timedelta or a number of seconds"):
        KeptToo().with_options(retention=retention)
    with pytest.raises(WorkflowValidationError, match="retention must be a timedelta or a number of seconds"):

        class Unfit(KeptToo, retention=retention):
            pass

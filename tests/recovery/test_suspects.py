"""How many suspects are admitted to one process."""

from __future__ import annotations

import asyncio

from umbel.orchestration.model.suspicion import CROWDS, ONE_SUSPECT, Room
from umbel.tasks.owner.suspects import Permit, Suspects


async def asking(suspects: Suspects, level: int = 1) -> asyncio.Task[Permit]:
    """Ask for a permit, and run until the request waits."""
    task = asyncio.ensure_future(suspects.permit(level))
    await settled()
    return task


async def settled() -> None:
    """Let everything that is ready run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def granted(asked: list[asyncio.Task[Permit]]) -> list[Permit]:
    await settled()
    return [task.result() for task in asked if task.done() and not task.cancelled()]


async def end(*asked: asyncio.Task[Permit]) -> None:
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_suspects_begin_with_one_and_each_that_ends_well_lets_one_more_in() -> None:
    suspects = Suspects()
    asked = [await asking(suspects) for _ in range(15)]
    sizes, done = [], 0
    while done < len(asked):
        running = (await granted(asked))[done:]
        sizes.append(len(running))
        done += len(running)
        for permit in running:
            permit.end(went_well=True)

    assert sizes == [1, 2, 4, 8]


async def test_a_permit_that_was_not_used_proves_nothing() -> None:
    suspects = Suspects()
    asked = [await asking(suspects) for _ in range(3)]
    (await granted(asked))[0].end(went_well=False)

    assert len(await granted(asked)) == 2
    await end(*asked)


async def test_suspects_that_survive_for_long_let_others_in_before_they_end() -> None:
    suspects = Suspects()
    asked = [await asking(suspects) for _ in range(4)]
    assert len(await granted(asked)) == 1

    done, _ = await asyncio.wait(asked, timeout=20)

    assert len(done) == 4


async def test_a_suspect_of_the_highest_level_is_alone() -> None:
    suspects = Suspects()
    first, alone, beside = await asking(suspects), await asking(suspects, len(CROWDS)), await asking(suspects)
    assert first.result().room == Room(1)
    assert not alone.done()
    first.result().end(went_well=True)
    await settled()
    assert not alone.done(), "one that is suspected less is still running"
    beside.result().end(went_well=True)
    await settled()
    assert alone.result().room == ONE_SUSPECT
    late = await asking(suspects)
    assert not late.done()
    alone.result().end(went_well=True)
    await settled()
    assert late.done()


async def test_the_most_suspected_that_runs_limits_how_many_run_beside_it() -> None:
    suspects = Suspects()
    for _ in range(CROWDS[1] + 5):
        (await suspects.permit(1)).end(went_well=True)
    asked = [await asking(suspects, 2), *[await asking(suspects) for _ in range(CROWDS[1] + 2)]]

    assert len(await granted(asked)) == CROWDS[1]
    await end(*asked)


async def test_where_one_step_is_executed_at_a_time_each_suspect_is_alone() -> None:
    suspects = Suspects(one_at_a_time=True)
    asked = [await asking(suspects) for _ in range(3)]
    for n in range(3):
        assert len(await granted(asked)) == n + 1
        assert asked[n].result().room == ONE_SUSPECT
        asked[n].result().end(went_well=True)


async def test_a_permit_whose_waiter_has_left_goes_to_the_next() -> None:
    suspects = Suspects()
    asked = [await asking(suspects) for _ in range(3)]
    asked[1].cancel()
    await settled()
    asked[0].result().end(went_well=False)
    await settled()

    assert asked[2].done()

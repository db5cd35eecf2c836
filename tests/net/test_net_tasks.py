"""Ending tasks: whoever waits for them waits for all, in few turns of the loop, and gets none of their failures."""

from __future__ import annotations

import asyncio
import gc

import pytest

from p2pmodel.net import cancelled, ended


async def stubborn(log: list[str], turns: int = 3) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        for _ in range(turns):
            await asyncio.sleep(0)
        log.append("cleaned up")


async def fails() -> None:
    raise ValueError("of no interest to whoever ends it")


async def test_tasks_are_cancelled_and_waited_for_through_their_clean_up() -> None:
    log: list[str] = []
    tasks = [asyncio.create_task(stubborn(log)) for _ in range(3)]
    await asyncio.sleep(0)
    await cancelled(tasks)
    assert log == ["cleaned up"] * 3 and all(task.cancelled() for task in tasks)


async def test_for_tasks_that_have_ended_no_turn_of_the_loop_is_taken() -> None:
    tasks = [asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.wait(tasks)
    waiting = ended(tasks)
    with pytest.raises(StopIteration):
        waiting.send(None)


async def test_what_a_task_failed_with_is_not_reported_as_forgotten(caplog) -> None:
    tasks = [asyncio.create_task(fails())]
    await ended(tasks)
    del tasks
    gc.collect()
    assert not caplog.records


async def test_a_wait_that_is_cancelled_cancels_the_tasks_and_still_sees_them_end() -> None:
    log: list[str] = []
    tasks = [asyncio.create_task(stubborn(log)) for _ in range(2)]
    waiting = asyncio.create_task(ended(tasks))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert all(task.done() for task in tasks) and log == ["cleaned up"] * 2

"""Many events at once: one key that never rests, and more keys than may be under way.

moto hands out a few hundred messages a second while its queue is short, so a message carries many events and the queue is
filled as it empties. No worker runs: what is under test ends at the accepted start.
"""

from __future__ import annotations

import asyncio
import math
import resource
import sys
import time
from collections.abc import Sequence

import pytest

from ingest.dispatch import Target
from ingest.held import Bounds
from ingest.sqs import SqsIngestor
from tests.ingest.conftest import Queue, Rig
from tests.ingest.test_dispatch import signals
from tests.ingest.test_events import s3_body, s3_record
from tests.poll import eventually

BACKLOG = 100
BOUNDS = Bounds(messages=60, targets=150)
AHEAD = 4 * 10
"""What the receives under way may bring beyond the bound."""
MIB = 1 << 20
SOAK_MIB = 600


def bodies(rig: Rig, keys: Sequence[str], events_per_message: int) -> list[str]:
    records = [s3_record(key, bucket=rig.source.bucket) for key in keys]
    return [s3_body(*records[at : at + events_per_message]) for at in range(0, len(records), events_per_message)]


async def fill(queue: Queue, messages: Sequence[str], timeout_s: float) -> None:
    """Sends them all, as the queue has room, and returns when it is empty."""
    for at in range(0, len(messages), BACKLOG // 2):
        await eventually(lambda: queue.left() <= BACKLOG // 2, timeout_s, interval_s=0.05)
        await asyncio.to_thread(queue.send_many, messages[at : at + BACKLOG // 2])
    await eventually(lambda: queue.left() == 0, timeout_s, interval_s=0.05)


async def hot_key(rig: Rig, events: int, events_per_message: int) -> tuple[int, int]:
    """The signals that the events of one key made, and the seconds that all took, rounded up."""
    ingestor, began = rig.ingestor(coalesce_s=1.0), time.monotonic()
    messages = bodies(rig, ["hot"] * events, events_per_message)
    async with rig.ingest(ingestor):
        await fill(rig.queue, messages, 120)
    seconds = time.monotonic() - began
    assert ingestor.counts["acknowledged"] >= len(messages) > 1
    assert ingestor.held.most > 10, "the messages waited side by side"
    return await signals(rig.client, Target(rig.route, "hot")), math.ceil(seconds)


async def many_keys(rig: Rig, keys: int, events_per_message: int) -> SqsIngestor:
    """Returns the ingestor once every key has its workflow."""
    ingestor = rig.ingestor(bounds=BOUNDS)
    names = [f"k{number}" for number in range(keys)]
    async with rig.ingest(ingestor):
        await fill(rig.queue, bodies(rig, names, events_per_message), 600)

    async def are_started() -> bool:
        return (await rig.client.count_workflows(f"DrayageRoute = '{rig.route}'")).count == keys

    await eventually(are_started, 60, interval_s=0.2)
    return ingestor


def reached_and_kept_bounds(ingestor: SqsIngestor, events_per_message: int) -> bool:
    held = ingestor.held
    kept = held.most <= BOUNDS.messages + AHEAD and held.most_targets <= BOUNDS.targets + AHEAD * events_per_message
    return kept and (held.most >= BOUNDS.messages or held.most_targets >= BOUNDS.targets)


async def test_twenty_thousand_events_of_one_key_make_a_signal_a_second(rig: Rig) -> None:
    made, seconds = await hot_key(rig, 20_000, 50)
    assert 2 <= made <= seconds + 1


async def test_two_thousand_keys_are_all_started_within_bounds(rig: Rig) -> None:
    ingestor = await many_keys(rig, 2_000, 5)
    assert ingestor.counts["started"] >= 2_000
    assert reached_and_kept_bounds(ingestor, 5)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_hundred_thousand_events_of_one_key_make_less_than_a_thousand_signals(rig: Rig) -> None:
    made, seconds = await hot_key(rig, 100_000, 50)
    assert 2 <= made <= min(seconds + 1, 999)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_fifty_thousand_keys_are_all_started_in_bounded_memory(rig: Rig) -> None:
    ingestor = await many_keys(rig, 50_000, 20)
    assert ingestor.counts["started"] >= 50_000
    assert reached_and_kept_bounds(ingestor, 20)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert used < SOAK_MIB * MIB

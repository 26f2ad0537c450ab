"""Odd keys on their way between real servers: each arrives under exactly its own name, or is refused by name."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from embedded.fake_gcs import FakeGcs
from embedded.moto import MotoServer
from embedded.seaweedfs import SeaweedFS
from replication.errors import BY_REASON
from tests.e2e.conftest import OpenRoute
from tests.e2e.sides import FileSide, GcsSide, S3Side, Side
from tests.lab import Lab
from tests.stores.keys import ODD_KEYS

KEY_REASONS = {"key-unrepresentable", "key-collision", "key-invalid"}


@pytest.fixture
def ends(
    request: pytest.FixtureRequest, moto_s3: MotoServer, seaweed: SeaweedFS, fake_gcs: FakeGcs, tmp_path: Path
) -> Iterator[tuple[Side, Side]]:
    """Buckets of their own: a key under a prefix is not the same key."""
    source_name, destination_name = request.param
    source: Side = S3Side("source", moto_s3) if source_name == "moto" else GcsSide("source", fake_gcs)
    made: dict[str, Callable[[], Side]] = {
        "moto": lambda: S3Side("destination", moto_s3),
        "seaweed": lambda: S3Side("destination", seaweed),
        "gcs": lambda: GcsSide("destination", fake_gcs),
        "files": lambda: FileSide("destination", tmp_path),
    }
    destination = made[destination_name]()
    yield source, destination
    source.close()
    destination.close()


def seedable(source: Side) -> dict[str, str]:
    """The corpus without what the source's server cannot hold (moto routes no newline, GCS refuses it) or its library
    normalises away."""
    lost = {"newline", "trailing-newline", "dot", "dot-dot"} | ({"carriage-return"} if source.kind == "gcs" else set())
    return {name: key for name, key in ODD_KEYS.items() if name not in lost}


async def outcome(lab: Lab, key: str) -> str:
    """`copied`, or the reason of a blocked workflow."""
    try:
        return (await lab.replicate(key)).outcome
    except WorkflowFailureError as error:
        failure = error
    reason = failure.cause.type if isinstance(failure.cause, ApplicationError) else None
    assert reason is not None
    assert BY_REASON[reason].rests == "blocked", failure.cause
    return reason


WAYS = [("moto", "gcs"), ("moto", "files"), ("moto", "seaweed"), ("gcs", "moto"), ("gcs", "files")]


@pytest.mark.parametrize("ends", WAYS, indirect=True, ids=lambda way: "-".join(way))
async def test_an_odd_key_arrives_under_its_own_name_or_blocks_with_a_reason(ends: tuple[Side, Side], open_route: OpenRoute) -> None:
    source, destination = ends
    keys = seedable(source)
    await asyncio.gather(*(asyncio.to_thread(source.put, key, name.encode()) for name, key in keys.items()))
    assert await asyncio.to_thread(source.keys) == set(keys.values())
    async with open_route(source, destination, prefixes=("", "")) as lab:
        ended = dict(zip(keys, await asyncio.gather(*(outcome(lab, key) for key in keys.values())), strict=True))

    held = {name: key for name, key in keys.items() if ended[name] == "copied"}
    refused = {name: reason for name, reason in ended.items() if name not in held}
    assert set(refused.values()) <= KEY_REASONS
    for name, key in held.items():
        replica = await asyncio.to_thread(destination.see, key)
        assert replica is not None, (name, key)
        assert replica.sha256 == hashlib.sha256(name.encode()).hexdigest(), (name, key)
    assert await asyncio.to_thread(destination.keys) == set(held.values())
    assert len(held) > 30

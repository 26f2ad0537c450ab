"""What a pass asks its stores for, counted at proxies before them."""

from __future__ import annotations

from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest

from replication.passes import PassResult
from tests.e2e.sides import Side
from tests.faults.conftest import MakeRig
from tests.faults.rig import PART, Rig, noise
from tests.faults.test_pass_faults import reconcile
from tests.passes.test_pairs import ODD, put_all
from tests.proxy import Exchange

SMALL = 1_200
"""More than a page of a listing holds."""
PAIRS = [("s3", "s3b"), ("s3", "gcs"), ("gcs", "s3b")]


def what(seen: Exchange) -> str:
    """`list`, or the method and the target of anything else."""
    target = urlsplit(seen.target)
    query = parse_qs(target.query, keep_blank_values=True)
    of_s3, of_gcs = "list-type" in query, target.path.endswith("/o") and "prefix" in query
    return "list" if seen.method == "GET" and (of_s3 or of_gcs) else f"{seen.method} {seen.target}"


async def counted(rig: Rig) -> tuple[PassResult, Counter[str]]:
    """A pass, and the requests that it made at both sides."""
    assert rig.reading is not None
    assert rig.writing is not None
    before = len(rig.reading.log), len(rig.writing.log)
    result = await reconcile(rig)
    return result, Counter(map(what, [*rig.reading.log[before[0] :], *rig.writing.log[before[1] :]]))


@pytest.mark.parametrize(("source_name", "destination_name"), PAIRS)
async def test_a_second_pass_asks_for_listings_alone(
    make_rig: MakeRig, request: pytest.FixtureRequest, source_name: str, destination_name: str
) -> None:
    source, destination = (request.getfixturevalue(name) for name in (source_name, destination_name))
    assert isinstance(source, Side)
    rig = await make_rig(source, destination)
    objects = {f"{rig.before}{number:04d}": noise(number % 50) for number in range(SMALL)}
    objects |= {f"{rig.before}odd/{name}": noise(33) for name in ODD} | {f"{rig.before}large": noise(PART + 1)}
    await put_all(source, objects)
    async with rig.worker():
        first, writing = await counted(rig)
        assert first.counters.copied == len(objects)
        assert sum(count for asked, count in writing.items() if asked != "list") >= 2 * len(objects), "the proxies see every request"

        second, asked = await counted(rig)
    assert (second.counters.copied, second.counters.skipped) == (0, len(objects))
    assert asked.pop("list") >= 4, "two pages of each side"
    assert not asked

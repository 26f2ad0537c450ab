"""The estimate of a dry run."""

from __future__ import annotations

from replication.limits import GIB
from replication.passes import Counters
from replication.prices import estimate
from replication.store_settings import StorePrices

PRICES = StorePrices(reads=1.0, writes=10.0, egress=0.5)


def test_a_copy_is_a_read_a_write_and_bytes_that_leave() -> None:
    plan = Counters(listed=2_000, replicas=1_000, copied=1_000, bytes_copied=4 * GIB)
    assert estimate(plan, PRICES, PRICES) == {"source": 3.002, "destination": 10.001}


def test_a_side_without_prices_is_left_out() -> None:
    assert estimate(Counters(deleted=1_000), None, PRICES) == {"destination": 11.0}
    assert estimate(Counters(), None, None) == {}

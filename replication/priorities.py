"""Which work goes first. Temporal takes the lower number first, and 3 for work that has none."""

from __future__ import annotations

EVENT = 2
BULK = 4

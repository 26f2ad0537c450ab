"""A token bucket: pure, time passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bucket:
    """So many tokens at the time `at`, in seconds of any clock that does not go back."""

    tokens: float
    at: float


def take(bucket: Bucket, rate: float, now: float) -> tuple[Bucket, float]:
    """Takes one token where there is one. Tokens come at `rate` a second and at most one second's worth is saved.

    Returns the bucket at `now` and how long to wait for a token; 0 says that one was taken.
    """
    tokens = min(rate, bucket.tokens + max(0.0, now - bucket.at) * rate)
    if tokens >= 1:
        return Bucket(tokens - 1, now), 0.0
    return Bucket(tokens, now), (1 - tokens) / rate

"""Bearer tokens, with credentials of our own in place of Google's: its token endpoint cannot be reached from a test."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from google.auth import exceptions as auth_errors
from google.auth.credentials import Credentials

from replication.errors import CredentialsRefused, EndpointUnreachable, ObjectError
from stores.gcs_credentials import BearerTokens


class Issued(Credentials):  # type: ignore[misc, unused-ignore]
    """Credentials whose every refresh gives a numbered token that lives for `lives`, or fails with `failure`."""

    def __init__(self, lives: timedelta, failure: Exception | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refreshes = 0
        self._lives = lives
        self._failure = failure

    def refresh(self, request: object) -> None:
        if self._failure is not None:
            raise self._failure
        self.refreshes += 1
        self.token = f"token-{self.refreshes}"
        self.expiry = datetime.now(UTC).replace(tzinfo=None) + self._lives  # google.auth compares naive UTC times


def unreachable_metadata_server() -> Exception:
    """As `google.auth.compute_engine` raises it."""
    error = auth_errors.RefreshError()  # type: ignore[no-untyped-call]
    error.__cause__ = auth_errors.TransportError()  # type: ignore[no-untyped-call]
    return error


async def test_a_fresh_token_is_fetched_once_for_all_tasks() -> None:
    issued = Issued(timedelta(hours=1))
    tokens = BearerTokens(lambda: issued)
    headers = await asyncio.gather(*(tokens.headers() for _ in range(20)))
    assert {one["authorization"] for one in headers} == {"Bearer token-1"}
    assert issued.refreshes == 1


async def test_a_token_near_its_end_is_replaced() -> None:
    issued = Issued(timedelta(seconds=30))
    tokens = BearerTokens(lambda: issued)
    assert (await tokens.headers())["authorization"] == "Bearer token-1"
    assert (await tokens.headers())["authorization"] == "Bearer token-2"


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (auth_errors.RefreshError(), CredentialsRefused),  # type: ignore[no-untyped-call]
        (auth_errors.TransportError(), EndpointUnreachable),  # type: ignore[no-untyped-call]
        (auth_errors.RefreshError("503", retryable=True), EndpointUnreachable),  # type: ignore[no-untyped-call]
        (unreachable_metadata_server(), EndpointUnreachable),
    ],
)
async def test_a_failed_refresh_is_told_apart_from_an_unreachable_endpoint(failure: Exception, error: type[ObjectError]) -> None:
    with pytest.raises(error):
        await BearerTokens(lambda: Issued(timedelta(hours=1), failure)).headers()


async def test_missing_credentials_are_refused() -> None:
    def none() -> Credentials:
        raise auth_errors.DefaultCredentialsError("none were found")  # type: ignore[no-untyped-call]

    with pytest.raises(CredentialsRefused):
        await BearerTokens(none).headers()


async def test_a_token_that_was_refused_is_replaced_once() -> None:
    first, second = Issued(timedelta(hours=1)), Issued(timedelta(hours=1))
    second.refreshes = 10
    loaded = iter([first, second, Issued(timedelta(hours=1))])
    tokens = BearerTokens(lambda: next(loaded))
    old = (await tokens.headers())["authorization"]
    assert await asyncio.gather(*(tokens.renewed(old) for _ in range(3))) == [True] * 3, "whatever was under way with it"
    new = (await tokens.headers())["authorization"]
    assert (old, new) == ("Bearer token-1", "Bearer token-11")
    assert await tokens.renewed(old), "it was replaced meanwhile"
    assert not await tokens.renewed(new), "no better one stands behind it"
    assert (await tokens.headers())["authorization"] == "Bearer token-1", "who asks again has what there is then"


async def test_credentials_that_were_revoked_are_loaded_again_when_somebody_asks_again() -> None:
    revoked = Issued(timedelta(hours=1), auth_errors.RefreshError())  # type: ignore[no-untyped-call]
    loaded = iter([revoked, Issued(timedelta(hours=1))])
    tokens = BearerTokens(lambda: next(loaded))
    with pytest.raises(CredentialsRefused):
        await tokens.headers()
    assert await tokens.headers() == {"authorization": "Bearer token-1"}

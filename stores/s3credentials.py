"""Where the credentials of an S3 endpoint come from, and whether others may be had once the store has refused them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import aioboto3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
)

from replication.errors import CredentialsRefused, EndpointUnreachable, ObjectError, SettingsError, Transient, Unavailable
from stores.mapping import s3_error
from stores.signing import Credentials


class CredentialSource(Protocol):
    async def current(self) -> Credentials:
        """Credentials that are valid now. `CredentialsRefused` when there are none."""

    async def renewed(self, used: Credentials) -> bool:
        """The store refused `used`: whether there are others by now. Raises nothing."""


class Given:
    """Credentials from the settings. What stands in a file may be replaced, so the references are read again after a refusal."""

    def __init__(self, read: Callable[[], Credentials]) -> None:
        self._read = read
        self.first = self._credentials = read()

    async def current(self) -> Credentials:
        return self._credentials

    async def renewed(self, used: Credentials) -> bool:
        if used == self._credentials:
            with suppress(SettingsError):
                self._credentials = self._read()
        return used != self._credentials


class DefaultChain:
    """The default AWS credential chain, resolved at the first request, refreshed as its provider asks, and resolved anew after a
    refusal: some of its files are written by programs that renew what stands in them."""

    def __init__(self) -> None:
        self._session: aioboto3.Session | None = None
        self._given: Credentials | None = None

    async def current(self) -> Credentials:
        try:
            self._session = self._session or aioboto3.Session()
            # Typed as boto3's own, which is not awaited.
            loaded: Any = self._session.get_credentials()
            found = await loaded
            frozen = await found.get_frozen_credentials() if found is not None else None
        except (BotoCoreError, ClientError, OSError, ValueError, RuntimeError) as error:
            raise _no_credentials(error) from error
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            raise CredentialsRefused("the AWS credential chain holds no credentials")
        self._given = Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")
        return self._given

    async def renewed(self, used: Credentials) -> bool:
        if used == self._given:
            self._session = None
        try:
            return used != await self.current()
        except ObjectError:
            return False


def _no_credentials(error: Exception) -> ObjectError:
    """A service of credentials that does not answer, or is busy, will answer later: only what it says itself is a refusal."""
    text = f"the AWS credential chain failed: {type(error).__name__}"
    if isinstance(error, ClientError):
        code, status = error.response["Error"].get("Code", ""), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        told = s3_error("credentials", status, code)
        return EndpointUnreachable(f"{text} {code}") if isinstance(told, (Transient, Unavailable)) else CredentialsRefused(f"{text} {code}")
    # RuntimeError: what was refreshed is expired already.
    machine = isinstance(error, CredentialRetrievalError) and error.kwargs.get("provider") in ("container-role", "iam-role")
    if machine or isinstance(error, (ConnectionError, HTTPClientError, MetadataRetrievalError, RuntimeError)):
        return EndpointUnreachable(text)
    return CredentialsRefused(text)

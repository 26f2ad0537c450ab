"""Bearer tokens for the GCS data plane: Google's own credential chain, refreshed off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import google.auth
from google.auth import exceptions as auth_errors
from google.auth.credentials import Credentials, TokenState
from google.auth.transport.requests import Request

from replication.errors import CredentialsRefused, EndpointUnreachable, ObjectError

SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)


def application_default() -> Credentials:
    """Application default credentials: the environment's key file, gcloud's login, or the machine's service account."""
    credentials, _ = google.auth.default(scopes=SCOPES)
    return credentials


class BearerTokens:
    """Authorization headers from credentials that are refreshed in time, and loaded anew where the store refuses a token, by one
    task at a time, in a thread."""

    def __init__(self, load: Callable[[], Credentials] = application_default) -> None:
        self._load = load
        self._lock = asyncio.Lock()
        self._credentials: Credentials | None = None
        self._given = self._replacement = ""
        """The header that was given last, and the one that was given after a refusal."""

    async def credentials(self) -> Credentials:
        """Credentials with a token good for some minutes. `CredentialsRefused` when there are none or they were revoked."""
        current = self._credentials
        if current is None or current.token_state is not TokenState.FRESH:
            async with self._lock:
                current = await self._guarded(self._refreshed)
        return current

    async def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        (await self.credentials()).apply(headers)  # type: ignore[no-untyped-call]
        self._given = headers.get("authorization", "")
        return headers

    async def renewed(self, used: str) -> bool:
        """The store refused the header `used`: whether there is another by now. What came after a refusal and is refused as well has
        no better one behind it. Raises nothing."""
        if used == self._given:
            self._credentials = None
        if used == self._replacement:
            return False
        try:
            self._replacement = (await self.headers()).get("authorization", "")
        except ObjectError:
            return False
        return used != self._replacement

    def _refreshed(self) -> Credentials:
        made = self._credentials or self._load()
        if made.token_state is not TokenState.FRESH:
            made.refresh(Request())  # type: ignore[no-untyped-call]
        self._credentials = made
        return made

    async def _guarded(self, work: Callable[[], Credentials]) -> Credentials:
        try:
            return await asyncio.to_thread(work)
        except auth_errors.TransportError as error:
            raise EndpointUnreachable("the token endpoint cannot be reached") from error
        except auth_errors.GoogleAuthError as error:
            # A metadata server that cannot be reached comes as a RefreshError, a token endpoint's 5xx as one to be repeated.
            if error.retryable or isinstance(error.__cause__, auth_errors.TransportError):
                raise EndpointUnreachable("the token endpoint does not answer") from error
            raise CredentialsRefused(f"no usable Google credentials ({type(error).__name__})") from error

"""The configured stores of a process: built when first used, probed once a day, closed together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from replication.limits import Capabilities
from replication.secrets import resolve_secret
from replication.settings import Settings
from replication.store_settings import FileSettings, GcsSettings, S3Settings, StoreSettings
from stores.base import Store

PROBE_VALID_S = 86_400.0


class Stores:
    """Stores by their name in the settings, with the capabilities of each (store, bucket)."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._environ = environ
        self._clock = clock
        self._stores: dict[str, Store] = {}
        self._probed: dict[tuple[str, str, bool], tuple[float, Capabilities]] = {}
        self._probing: dict[tuple[str, str, bool], asyncio.Lock] = {}

    def add(self, store: Store) -> None:
        """Registers a store that is not built from settings."""
        self._stores[store.name] = store

    def get(self, name: str) -> Store:
        """The store of that name. Raises `SettingsError` when a secret it refers to is missing."""
        if name not in self._stores:
            self._stores[name] = build_store(name, self._settings.stores[name], self._environ)
        return self._stores[name]

    async def capabilities(self, name: str, bucket: str, *, writable: bool = True) -> Capabilities:
        """What the endpoint does for this bucket; asked once, kept for a day. Raises like `Store.probe`."""
        slot = (name, bucket, writable)
        fresh = self._probed.get(slot)
        if fresh is not None and self._clock() - fresh[0] <= PROBE_VALID_S:
            return fresh[1]
        async with self._probing.setdefault(slot, asyncio.Lock()):
            known = self._probed.get(slot)
            if known is None or self._clock() - known[0] > PROBE_VALID_S:
                known = (self._clock(), await self.get(name).probe(bucket, writable=writable))
                self._probed[slot] = known
            return known[1]

    async def close(self) -> None:
        stores, self._stores = list(self._stores.values()), {}
        for store in stores:
            await store.close()


def build_store(name: str, settings: StoreSettings, environ: Mapping[str, str]) -> Store:
    """One store from its settings; secrets are resolved here and nowhere earlier."""
    if isinstance(settings, S3Settings):
        return _s3(name, settings, environ)
    if isinstance(settings, GcsSettings):
        from stores.gcs import GcsStore

        return GcsStore(name, project=settings.project, endpoint=settings.endpoint, anonymous=settings.anonymous)
    assert isinstance(settings, FileSettings)
    from stores.files import FileStore

    return FileStore(name, root=settings.root)


def _s3(name: str, settings: S3Settings, environ: Mapping[str, str]) -> Store:
    from stores.s3 import S3Store
    from stores.signing import Credentials

    def read() -> Credentials:
        names = ("access_key_id", "secret_access_key", "session_token")
        given = [(field, getattr(settings, field)) for field in names if getattr(settings, field)]
        return Credentials(**{field: resolve_secret(ref, environ, field=f"stores.{name}.{field}") for field, ref in given})

    return S3Store(
        name,
        region=settings.region,
        endpoint=settings.endpoint,
        credentials=read if settings.access_key_id else None,
        path_style=settings.path_style,
        expected_bucket_owner=settings.expected_bucket_owner,
    )

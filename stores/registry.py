"""The configured stores of a process: built when first used, probed once a day, closed together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from replication.limits import Capabilities
from replication.secrets import resolve_secret
from replication.settings import Settings
from replication.store_settings import CdnSettings, FileSettings, GcsSettings, S3Settings, StoreSettings
from stores.base import Store

if TYPE_CHECKING:
    from stores.cdn import Edge

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
        edges=[_edge(f"stores.{name}.cdn[{at}]", cdn, environ) for at, cdn in enumerate(settings.cdn)],
    )


def _edge(where: str, cdn: CdnSettings, environ: Mapping[str, str]) -> Edge:
    from stores.cdn import Edge, SignedUrls

    def read() -> str:
        assert cdn.private_key is not None
        return resolve_secret(cdn.private_key, environ, field=f"{where}.private_key", lines=True)

    signed = SignedUrls(cdn.url, cdn.key_pair_id, read, lifetime_s=cdn.signed_for) if cdn.key_pair_id else None
    return Edge(cdn.bucket, cdn.prefix, cdn.url, rewrite=cdn.rewrite, signed=signed)

"""Objects of the data store's layout, as its users write them: a blob, its file manifest, its bundle and its collection."""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from typing import Any

VERSION = "2019-05-16T211813.059476Z"


class Dss:
    """One of each, which name each other. `documents` are the manifests by key, `names` what each names."""

    def __init__(self, seed: int = 0) -> None:
        ids = [str(uuid.UUID(int=random.Random(f"{seed}-{n}").getrandbits(128), version=4)) for n in range(3)]
        self.data = f"blob {seed}".encode()
        sums = {"sha256": hashlib.sha256(self.data).hexdigest(), "sha1": hashlib.sha1(self.data).hexdigest()}  # noqa: S324
        sums |= {"s3-etag": hashlib.md5(self.data).hexdigest(), "crc32c": "0a1b2c3d"}  # noqa: S324
        self.blob = "blobs/" + ".".join(sums.values())
        self.file, self.bundle, self.collection = (
            f"{kind}/{name}.{VERSION}" for kind, name in zip(("files", "bundles", "collections"), ids, strict=True)
        )
        self.documents: dict[str, Any] = {
            self.file: {"format": "0.0.1", **sums},
            self.bundle: {"files": [{"name": "a", "uuid": ids[0], "version": VERSION, **sums}]},
            self.collection: {"contents": [{"type": "bundle", "uuid": ids[1], "version": VERSION}]},
        }
        self.names = {self.file: self.blob, self.bundle: self.file, self.collection: self.bundle}

    @property
    def chain(self) -> list[str]:
        """Every key, each after what it names."""
        return [self.blob, self.file, self.bundle, self.collection]

    def content(self, key: str) -> bytes:
        return self.data if key == self.blob else json.dumps(self.documents[key]).encode()

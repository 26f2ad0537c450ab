"""The rule of any JSON manifest: values at paths of it, turned into keys by a template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replication.errors import InvalidManifest
from replication.manifests.documents import load
from replication.manifests.locations import Source, directory_of, distinct
from replication.manifests.pointers import where
from replication.manifests.references import Exists, Reference
from replication.manifests.rule import ContentRule
from replication.manifests.templates import Template

if TYPE_CHECKING:
    from replication.manifests.paths import Pointer
    from replication.manifests.queries import Query


@dataclass(frozen=True, slots=True)
class JsonRule(ContentRule):
    """A value that is a URI (`s3://BUCKET/key`) is a full key, whatever the template puts around a value; so is a text that
    the template makes a URI of. Everything else is a key below the route's prefix."""

    source: Source
    paths: tuple[Query | Pointer, ...]
    template: Template
    exists: Exists

    def references(self, key: str, content: bytes, content_encoding: str) -> tuple[Reference, ...]:
        directory = directory_of(self.source.below(key))
        return distinct(self._named(load(content, content_encoding), directory))

    def _named(self, document: Any, directory: str) -> Iterator[Reference]:
        for path in self.paths:
            for parts, value in path.select(document):
                try:
                    key = self._key(value, directory)
                except ValueError as wrong:
                    raise InvalidManifest(f"{where(parts)}: {wrong}") from None
                yield Reference(key, self.exists)

    def _key(self, value: Any, directory: str) -> str:
        full = self.source.of_uri(value) if isinstance(value, str) and not self.template.of_members else None
        if full is None:
            text = self.template.render(value, directory)
            full = self.source.of_uri(text)
            if full is None:
                return self.source.key(text)
        return self.source.checked(full)

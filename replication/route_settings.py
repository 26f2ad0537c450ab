"""The settings of routes: from where to where, and by which policies."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StrictBool, Tag, model_validator

from replication.globs import check_glob
from replication.keys import MAX_KEY_BYTES, is_reserved, key_problem
from replication.manifests.paths import check_path
from replication.manifests.templates import check_template
from replication.store_settings import Count, SettingsModel
from replication.units import Duration, Size

_NAME = re.compile(r"[a-z0-9][a-z0-9\-_.]{0,62}")
DSS_INTERNAL = ("cache",)
"""Key prefixes that never replicate with `dependencies: dss`, unless the route says otherwise."""


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be 1 to 63 of a-z, 0-9, '-', '_' and '.', the first a letter or digit")
    return value


def _bucket(value: str) -> str:
    if not value or len(value.encode(errors="replace")) > 255:
        raise ValueError("must be a bucket's name")
    if value in (".", "..") or "/" in value or not value.isprintable() or " " in value:
        raise ValueError("must be a bucket's name, without slashes or white space (a prefix goes into 'prefix')")
    return value


def _prefix(value: str) -> str:
    if value and (problem := key_problem(value)):
        raise ValueError(f"can start no key (at most {MAX_KEY_BYTES} bytes): {problem}")
    if is_reserved(value):
        raise ValueError("is reserved for temporary parts and probe objects")
    return value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _internal_prefix(value: str) -> str:
    if not value:
        raise ValueError("is empty, and would keep every key from replicating")
    return value


Glob = Annotated[str, AfterValidator(check_glob)]
Text = Annotated[str, Field(min_length=1)]


class LocationSettings(SettingsModel):
    """A store, a bucket in it, and the prefix of the keys that belong to the route (not necessarily ending in a slash)."""

    store: str
    bucket: Annotated[str, AfterValidator(_bucket)]
    prefix: Annotated[str, AfterValidator(_prefix)] = ""


class DeletesSettings(SettingsModel):
    """`mirror` deletes replicas whose source is gone, after the object has been gone for `hold`.

    More than `max_objects` deletions of the route within `window`, or more than `max_percent` of its replicas, wait for an
    operator. The percentage counts from the eleventh deletion on: one of two objects is no mass deletion.
    """

    mode: Literal["ignore", "mirror"] = "mirror"
    hold: Duration | None = None
    max_objects: Count = 1000
    max_percent: Annotated[float, Field(gt=0, le=100)] = 50.0
    window: Annotated[Duration, Field(gt=0)] = 3600.0


class DependencyRule(SettingsModel):
    """Keys that `match` (below the prefix) are manifests of a `kind`.

    `json`: `references` are JSON paths (`$…`) or JSON pointers (`/…`) to the values that name other objects, `key` is the
    template that makes a key of one, and `exists` what must be there of it. The other kinds know that by themselves:
    `iceberg` table metadata, `delta` log entries, and `success` markers, which wait for every sibling at the source.
    """

    match: Glob
    kind: Literal["json", "iceberg", "delta", "success"] = "json"
    references: Annotated[tuple[Annotated[Text, AfterValidator(check_path)], ...], BeforeValidator(_as_list)] = ()
    key: Annotated[Text, AfterValidator(check_template)] = "{value}"
    exists: Literal["object", "manifest"] = "object"

    @model_validator(mode="after")
    def _references_where_the_kind_knows_none(self) -> DependencyRule:
        if self.kind == "json" and not self.references:
            raise ValueError("a rule of kind json says in 'references' where the names of other objects stand")
        if self.kind != "json" and self.references:
            raise ValueError(f"a rule of kind {self.kind} knows where names stand: it takes no 'references'")
        return self


class DependencyWait(SettingsModel):
    """How long between looks at what is missing: `poll` at first, growing to `poll_max`; past `deadline` the manifest is
    `stalled`, which shows what is missing and goes on by itself when it arrives."""

    poll: Annotated[Duration, Field(gt=0)] = 8.0
    poll_max: Annotated[Duration, Field(gt=0)] = 60.0
    deadline: Annotated[Duration, Field(gt=0)] = 7200.0


class PartsSettings(SettingsModel):
    """How large objects travel: up to `one_shot_max` in one request, beyond it in parts of `part_size`.

    None is the destination's default part size for both: 64 MiB on S3 and files, 640 MiB on GCS.
    `concurrency` bounds one object's runs of parts in flight.
    """

    one_shot_max: Size | None = None
    part_size: Size | None = None
    concurrency: Count = 8


def _shape(value: object) -> str:
    """Which form of a setting that is either one word or something longer is meant."""
    return "word" if isinstance(value, str) else "long"


Deletes = Annotated[
    Annotated[Literal["ignore", "mirror"], Tag("word")] | Annotated[DeletesSettings, Tag("long")],
    Discriminator(_shape),
]
Dependencies = Annotated[
    Annotated[Literal["none", "dss", "iceberg", "delta", "success"], Tag("word")] | Annotated[tuple[DependencyRule, ...], Tag("long")],
    Discriminator(_shape),
]


class RouteSettings(SettingsModel):
    """A named, one-way replication with its policies."""

    name: Annotated[str, AfterValidator(_name)]
    source: LocationSettings
    destination: LocationSettings
    deletes: Deletes = "ignore"
    overwrite: Literal["latest", "never"] = "latest"
    foreign: Literal["overwrite", "keep", "conflict"] = "overwrite"
    """What to do with a differing replica that this product did not write."""
    conflict: Literal["newest", "keep-both"] = "newest"
    """Where another route leads back: which side wins when both changed, and whether the other is kept beside it."""
    dependencies: Dependencies = "none"
    dependency_wait: DependencyWait = DependencyWait()
    include: tuple[Glob, ...] = ()
    exclude: tuple[Glob, ...] = ()
    internal: tuple[Annotated[str, AfterValidator(_internal_prefix)], ...] | None = None
    """Prefixes, of keys below the route's prefix, that never replicate. None: none, or `DSS_INTERNAL` with dss."""
    storage_class: Text | None = None
    """The class of every replica, whatever `storage_class_map` says."""
    storage_class_map: dict[Text, Text] = Field(default_factory=dict)
    """Class at the source -> class at the destination."""
    tags: Literal["copy", "drop"] = "copy"
    tag_metadata_prefix: Text | None = None
    """Where a store has no tags, tag `a` is metadata `<prefix>a`; and back."""
    restore: StrictBool = False
    """Ask the source's archive for objects that are needed, and wait for them."""
    parts: PartsSettings = PartsSettings()

    @property
    def deletes_mode(self) -> Literal["ignore", "mirror"]:
        return self.deletes.mode if isinstance(self.deletes, DeletesSettings) else self.deletes

    @property
    def deletions(self) -> DeletesSettings:
        """The long form of `deletes`."""
        return self.deletes if isinstance(self.deletes, DeletesSettings) else DeletesSettings(mode=self.deletes)

    @property
    def internal_prefixes(self) -> tuple[str, ...]:
        if self.internal is not None:
            return self.internal
        return DSS_INTERNAL if self.dependencies == "dss" else ()

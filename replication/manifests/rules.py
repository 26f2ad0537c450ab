"""Which keys of a route are manifests, and what they name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from replication.globs import glob_regex
from replication.manifests.dss import dss_rules
from replication.manifests.json_rule import JsonRule
from replication.manifests.locations import Source
from replication.manifests.paths import compile_path
from replication.manifests.rule import Rule
from replication.manifests.tables import DELTA_NAMES, ICEBERG_NAMES, DeltaRule, IcebergRule, SuccessRule
from replication.manifests.templates import compile_template
from replication.route_settings import DependencyRule

__all__ = ["Rule", "Rules", "build_rules"]

_WORDS: dict[str, tuple[DependencyRule, ...]] = {
    "iceberg": (
        DependencyRule(match="**/metadata/*.metadata.json", kind="iceberg"),
        DependencyRule(match="**/metadata/*.metadata.json.gz", kind="iceberg"),
    ),
    "delta": (DependencyRule(match="**/_delta_log/*", kind="delta"),),
    "success": (DependencyRule(match="**/_SUCCESS", kind="success"),),
}
"""What a single word stands for."""


class _Claim(Protocol):
    def claim(self, below: str) -> Rule | None:
        """The rule of a key, given without the route's prefix; None where this claim has none for it."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one route. The first that matches a key counts."""

    prefix: str
    claims: tuple[_Claim, ...]

    def rule_of(self, key: str) -> Rule | None:
        """The rule of a full key; None for one that is published without waiting for others, and for one outside the
        route's prefix. Raises `UnknownKind` where the route's rules leave no key untold (`dss`)."""
        if not key.startswith(self.prefix):
            return None
        below = key[len(self.prefix) :]
        return next((rule for claim in self.claims if (rule := claim.claim(below)) is not None), None)


@dataclass(frozen=True, slots=True)
class _Matching:
    """Keys that a glob matches; `names` leaves out what cannot be a manifest of that kind."""

    glob: re.Pattern[str]
    names: re.Pattern[str] | None
    rule: Rule

    def claim(self, below: str) -> Rule | None:
        matches = self.glob.fullmatch(below) and (self.names is None or self.names.fullmatch(below))
        return self.rule if matches else None


def build_rules(dependencies: str | tuple[DependencyRule, ...], bucket: str, prefix: str) -> Rules | None:
    """The rules of a route whose source is there; None where the order of its objects does not matter."""
    if dependencies in ("none", ()):
        return None
    return Rules(prefix, tuple(_claims(dependencies, Source(bucket, prefix))))


def _claims(dependencies: str | tuple[DependencyRule, ...], source: Source) -> Iterable[_Claim]:
    if dependencies == "dss":
        return [dss_rules(source)]
    settings = _WORDS[dependencies] if isinstance(dependencies, str) else dependencies
    return [_matching(rule, source) for rule in settings]


def _matching(settings: DependencyRule, source: Source) -> _Matching:
    glob = re.compile(glob_regex(settings.match), re.DOTALL)
    match settings.kind:
        case "json":
            paths = tuple(compile_path(text) for text in settings.references)
            return _Matching(glob, None, JsonRule(source, paths, compile_template(settings.key), settings.exists))
        case "iceberg":
            return _Matching(glob, ICEBERG_NAMES, IcebergRule(source))
        case "delta":
            return _Matching(glob, DELTA_NAMES, DeltaRule(source))
        case "success":
            return _Matching(glob, None, SuccessRule(source))

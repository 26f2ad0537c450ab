"""Which keys of a route are manifests, and how each is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jsonpath
from jsonpath.exceptions import JSONPathError

from replication.errors import InvalidManifest
from replication.globs import compile_globs
from replication.manifests.documents import load_json
from replication.manifests.dss import dss_rule
from replication.manifests.keys import Base, filled, folder_of, unique
from replication.manifests.pointers import Unresolved, check_pointer, resolve
from replication.manifests.references import Exists, Reference
from replication.manifests.tables import DELTA_MATCH, ICEBERG_MATCH, SUCCESS_MATCH, DeltaRule, IcebergRule, SuccessRule


class Rule(Protocol):
    """How one kind of manifest names what it waits for: in its `content`, or by standing among its `siblings`."""

    @property
    def reads(self) -> Literal["content", "siblings"]: ...

    def references(self, key: str, content: bytes, content_encoding: str = "") -> tuple[Reference, ...]:
        """What the content of the manifest `key` names: each once, in order. Raises `InvalidManifest`."""
        ...

    def siblings(self, key: str) -> str:
        """The prefix of full keys that the marker `key` waits for."""
        ...


class RuleSettings(Protocol):
    """A rule of the configuration (`replication.route_settings.DependencyRule`)."""

    @property
    def match(self) -> str: ...
    @property
    def kind(self) -> Literal["json", "iceberg", "delta", "success"]: ...
    @property
    def references(self) -> tuple[str, ...]: ...
    @property
    def key(self) -> str: ...
    @property
    def exists(self) -> Exists: ...


@dataclass(frozen=True, slots=True)
class JsonRule:
    """A JSON document; `paths` lead to the values that name other objects, `template` makes a key of one."""

    base: Base
    paths: tuple[Any, ...]
    template: str
    exists: Exists
    reads: Literal["content", "siblings"] = "content"

    def references(self, key: str, content: bytes, content_encoding: str = "") -> tuple[Reference, ...]:
        document, folder = load_json(content, content_encoding), folder_of(self.base.below(key))
        values = (value for path in self.paths for value in _values(path, document))
        return unique((self.base.key(self._name(value, folder)) for value in values), self.exists)

    def siblings(self, key: str) -> str:
        raise AssertionError("the manifests of this rule have content")

    def _name(self, value: Any, folder: str) -> str:
        if isinstance(value, str) and "://" in value[:8]:
            return value
        return filled(self.template, value, folder)


class Rules:
    """The rules of one route, the first that matches counting."""

    def __init__(self, base: Base, rules: tuple[tuple[re.Pattern[str], Rule], ...] | None) -> None:
        self._base = base
        self._rules = rules
        """None for the data store's layout, where the key alone tells."""

    def rule_of(self, key: str) -> Rule | None:
        """The rule of a full key; None for an object that waits for nothing. Raises `UnknownKind`."""
        name = self._base.below(key)
        if self._rules is None:
            return dss_rule(self._base, name)
        return next((rule for pattern, rule in self._rules if pattern.fullmatch(name)), None)


def build_rules(dependencies: str | tuple[RuleSettings, ...], bucket: str, prefix: str) -> Rules | None:
    """The rules of a route whose source is there; None where the order of objects does not matter."""
    base = Base(bucket, prefix)
    match dependencies:
        case "none" | ():
            return None
        case "dss":
            return Rules(base, None)
        case "iceberg":
            return Rules(base, (_matched(IcebergRule(base), ICEBERG_MATCH),))
        case "delta":
            return Rules(base, (_matched(DeltaRule(base), *DELTA_MATCH),))
        case "success":
            return Rules(base, (_matched(SuccessRule(base), SUCCESS_MATCH),))
    assert not isinstance(dependencies, str)
    return Rules(base, tuple(_matched(_rule(settings, base), settings.match) for settings in dependencies))


def _matched(rule: Rule, *globs: str) -> tuple[re.Pattern[str], Rule]:
    pattern = compile_globs(globs)
    assert pattern is not None
    return pattern, rule


def _rule(settings: RuleSettings, base: Base) -> Rule:
    match settings.kind:
        case "iceberg":
            return IcebergRule(base)
        case "delta":
            return DeltaRule(base)
        case "success":
            return SuccessRule(base)
        case "json":
            return JsonRule(base, tuple(_path(text) for text in settings.references), settings.key, settings.exists)


def check_path(text: str) -> str:
    """Returns a sound JSON path (`$…`) or JSON pointer (`/…`), or raises ValueError."""
    _path(text)
    return text


def _path(text: str) -> Any:
    """A compiled JSON path, or the text of a JSON pointer."""
    if not text.startswith("$"):
        return check_pointer(text)
    try:
        return jsonpath.compile(text)
    except JSONPathError as error:
        raise ValueError(f"is no JSON path: {str(error).splitlines()[0]}") from None


def _values(path: Any, document: Any) -> Iterator[Any]:
    """What a path leads to; a list at the end of a pointer stands for its members."""
    if not isinstance(path, str):
        try:
            yield from (match.obj for match in path.finditer(document))
        except JSONPathError as error:
            raise InvalidManifest(f"the path cannot be followed: {str(error).splitlines()[0]}") from None
        return
    try:
        found = resolve(document, path)
    except Unresolved:
        raise InvalidManifest(f"the manifest has nothing at {path}") from None
    yield from found if isinstance(found, list) else [found]

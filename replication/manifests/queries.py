"""JSON paths (RFC 9535). Loaded by whoever has one to compile: the library takes a tenth of a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jsonpath import JSONPath, JSONPathEnvironment, JSONPathMatch
from jsonpath.exceptions import JSONPathError
from jsonpath.function_extensions import Match, Search
from jsonpath.match import PathPart
from jsonpath.segments import JSONPathChildSegment, JSONPathSegment
from jsonpath.selectors import IndexSelector, NameSelector, SliceSelector, WildcardSelector

from replication.errors import InvalidManifest
from replication.manifests.locations import kind_of, shown
from replication.manifests.pointers import Parts, is_member, where

_Reach = Literal["surely", "elements", "maybe"]
"""Which of a segment's values are surely meant to be gone into: all, those that are array elements, or none."""


class _Environment(JSONPathEnvironment):
    """RFC 9535 without the library's extensions, for several threads at once."""

    def setup_function_extensions(self) -> None:
        super().setup_function_extensions()
        self.function_extensions |= {"match": Match(thread_safe=True), "search": Search(thread_safe=True)}


_ENVIRONMENT = _Environment(strict=True, filter_caching=False)


class _Node(JSONPathMatch):
    """A match that does not keep its children: a million of them pass by, and none has to stay."""

    __slots__ = ()

    def add_child(self, *children: JSONPathMatch) -> None:
        pass

    def new_child(self, obj: object, key: PathPart) -> JSONPathMatch:
        return _Node(filter_context={}, obj=obj, parent=None, path="", parts=(*self.parts, key), root=self.root)


@dataclass(frozen=True, slots=True)
class Query:
    """A compiled JSON path."""

    path: JSONPath

    def select(self, document: Any) -> Iterator[tuple[Parts, Any]]:
        """Each value, with what leads to it. Null members are left out. Raises `InvalidManifest`."""
        nodes: Iterable[JSONPathMatch] = [_Node(filter_context={}, obj=document, parent=None, path="", parts=(), root=document)]
        reach: _Reach = "surely"
        for segment in self.path.segments:
            nodes = segment.resolve(self._enter(nodes, segment, reach))
            reach = _reach(segment)
        try:
            for node in nodes:
                if node.obj is not None or not is_member(node.parts):
                    yield node.parts, node.obj
        except JSONPathError as error:
            raise InvalidManifest(f"{self.path}: {error.message}") from None

    def _enter(self, nodes: Iterable[JSONPathMatch], segment: JSONPathSegment, reach: _Reach) -> Iterator[JSONPathMatch]:
        takes = _takes(segment)
        for node in nodes:
            if isinstance(node.obj, takes):
                yield node
            elif node.obj is not None and (reach == "surely" or (reach == "elements" and not is_member(node.parts))):
                raise InvalidManifest(f"{where(node.parts)} is {kind_of(node.obj)}, and {self.path} goes into it")


def compile_query(text: str) -> Query:
    """Raises ValueError, saying what is wrong, for a text that is no path."""
    try:
        path = _ENVIRONMENT.compile(text)
    except JSONPathError as error:
        at = f" at character {error.token.index + 1}" if error.token else ""
        raise ValueError(f"is no JSON path (RFC 9535): {shown(str(error.message))[1:-1]}{at}") from None
    if not isinstance(path, JSONPath):
        raise ValueError("is more than one JSON path: write them one by one")
    return Query(path)


def _takes(segment: JSONPathSegment) -> tuple[type, ...]:
    """What the segment can select anything from."""
    kinds = {type(selector) for selector in segment.selectors}
    if not isinstance(segment, JSONPathChildSegment):
        return (dict, list)
    if kinds == {NameSelector}:
        return (dict,)
    return (list,) if kinds <= {IndexSelector, SliceSelector} else (dict, list)


def _reach(segment: JSONPathSegment) -> _Reach:
    kinds = {type(selector) for selector in segment.selectors}
    if not isinstance(segment, JSONPathChildSegment) or not kinds <= {NameSelector, IndexSelector, SliceSelector, WildcardSelector}:
        return "maybe"
    return "elements" if WildcardSelector in kinds else "surely"

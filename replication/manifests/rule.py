"""What every rule offers to those who look for the dependencies of a manifest. Rules are frozen values and do no I/O."""

from __future__ import annotations

from typing import Literal, Protocol

from replication.manifests.references import Reference


class Rule(Protocol):
    """How the dependencies of one kind of manifest are found: in its `content`, or by listing its `siblings`."""

    @property
    def reads(self) -> Literal["content", "siblings"]: ...

    def references(self, key: str, content: bytes, content_encoding: str) -> tuple[Reference, ...]:
        """What the manifest at the full key `key` names: each once, in order.

        `content` are the bytes as stored. Raises `InvalidManifest`, which says what is wrong and where. A rule that reads
        siblings finds nothing in a content.
        """
        ...

    def siblings(self, key: str) -> str:
        """The prefix, of full keys, under which everything that the source lists is what the marker `key` waits for.

        The listing also shows the marker itself, and perhaps other markers. Both are to be left out by asking for the
        rule of each listed key: what is itself under a rule that reads siblings is no sibling. For a rule that reads
        content this is `key` itself.
        """
        ...


class ContentRule:
    """Base of the rules that read content."""

    __slots__ = ()

    @property
    def reads(self) -> Literal["content", "siblings"]:
        return "content"

    def siblings(self, key: str) -> str:
        return key


class SiblingsRule:
    """Base of the rules that list siblings."""

    __slots__ = ()

    @property
    def reads(self) -> Literal["content", "siblings"]:
        return "siblings"

    def references(self, key: str, content: bytes, content_encoding: str) -> tuple[Reference, ...]:
        return ()

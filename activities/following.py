"""Following manifests as far as they lead: a bundle stands when its files do, and each file's blob."""

from __future__ import annotations

from dataclasses import dataclass

from activities._progress import pulse
from activities.dependencies import LOOKS_AT_ONCE, SHOWN, Dependencies, is_manifest, together
from replication.manifests.rule import Rule
from stores.observe import View, observe
from stores.registry import Stores

REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Missing:
    """The first keys that do not stand, at most 20, and how many are known. With none, everything stands."""

    keys: tuple[str, ...] = ()
    count: int = 0


class Following:
    """Looks below manifests, and remembers what it found below each for as long as it lives."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._dependencies = Dependencies(stores)
        self._known: dict[str, Missing] = {}

    async def missing(self, view: View, rule: Rule, above: frozenset[str] = frozenset()) -> Missing:
        """What does not stand of what the manifest of `view` names, directly or not; `above` are the manifests that led here.

        Raises what `Dependencies.missing` raises for the manifest itself or for one below it.
        """
        key = view.source.key
        if key in self._known:
            return self._known[key]
        waiting = await self._dependencies.missing(view, rule, None, (), _touch)
        found = Missing(tuple(waiting.first), waiting.missing_count) if waiting else await self._below(view, rule, above | {key})
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[key] = found
        return found

    async def _below(self, view: View, rule: Rule, above: frozenset[str]) -> Missing:
        """Of a manifest whose own references all stand."""
        assert view.source_info is not None
        references = await self._dependencies.references(view.route, view.source, view.source_info, rule, _touch)
        left = iter([ref.key for ref in references if ref.key not in above and is_manifest(view.route, ref.key)])
        missing: set[str] = set()

        async def lane() -> None:
            for key in left:
                missing.update((await self._of(view, key, above)).keys)

        await together(lane() for _ in range(LOOKS_AT_ONCE))
        return Missing(tuple(sorted(missing)[:SHOWN]), len(missing))

    async def _of(self, view: View, key: str, above: frozenset[str]) -> Missing:
        if key in self._known:
            return self._known[key]
        assert view.route.rules is not None
        named, rule = await observe(view.route, key, self._stores), view.route.rules.rule_of(key)
        _touch(0)
        if rule is None or named.source_info is None:
            return Missing()
        return await self.missing(named, rule, above)


def _touch(_: int) -> None:
    pulse().touch()

"""The configuration: one YAML file, read once in an entry point, into one frozen object."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from replication.errors import Retry, RouteUnknown, SettingsError
from replication.ingest_settings import IngestSettings, WatchSettings
from replication.limits import KIB, MIB
from replication.notices import NotifySettings
from replication.retries import SCHEDULES, Schedule
from replication.route_settings import LocationSettings, PartsSettings, RouteSettings
from replication.routes import Route, build_route
from replication.settings_checks import Sound, cross_problems
from replication.settings_file import describe, parse_document
from replication.store_settings import Count, FileSettings, HostPort, S3Settings, SettingsModel, StoreSettings
from replication.units import Duration, Size, format_size

K = TypeVar("K")
V = TypeVar("V")

DEFAULT_PATH = Path("drayage.yaml")
PATH_VARIABLE = "DRAYAGE_CONFIG"

MEMORY_BASE = 150 * MIB
"""The interpreter with every library loaded is 110 MiB (measured); the rest is the workflow cache and Temporal's core."""
MEMORY_S3_STORE = 12 * MIB
"""An S3 client's service model and its connection pool (measured: 11 MiB)."""
MEMORY_STORE = 4 * MIB
MEMORY_STREAM = 2 * MIB
"""One part under way: a chunk of up to 1 MiB that is read ahead, and one that is held back until it is checked."""
GATHERED_BYTES = 64 * MIB
"""All small objects that are in memory at once, waiting to be sent with their checksum ahead of them."""
MEMORY_CONTROL_SLOT = 256 * KIB
"""One look at both sides of an object: two sets of attributes, one payload, one request."""

MEMORY_SCAN = 8 * MIB
"""Listing pages read ahead on both sides, receipts, and what is done but not yet recorded."""


def _filled(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return value


class TemporalSettings(SettingsModel):
    """Where the Temporal server is. `TEMPORAL_*` variables and profiles of `temporalio.envconfig` win over this."""

    address: HostPort = "127.0.0.1:7233"
    namespace: Annotated[str, AfterValidator(_filled)] = "default"
    task_queue: Annotated[str, AfterValidator(_filled)] = "drayage"

    @property
    def control_queue(self) -> str:
        """Workflows and short activities."""
        return self.task_queue

    @property
    def transfer_queue(self) -> str:
        """Activities that move bytes."""
        return f"{self.task_queue}-transfer"

    @property
    def bulk_queue(self) -> str:
        """Scans of passes, which look at and copy thousands of small objects each."""
        return f"{self.task_queue}-bulk"


class RetrySettings(SettingsModel):
    """How a failing activity is tried again before its object rests in a named state; each delay is `factor` times the last."""

    error_delay: Duration = 5.0
    error_retries: Annotated[int, Field(ge=0, le=100)] = 5
    timeout_delay: Duration = 30.0
    timeout_retries: Annotated[int, Field(ge=0, le=100)] = 3
    factor: Annotated[float, Field(ge=1, le=10)] = 1.5

    @property
    def schedules(self) -> dict[Retry, Schedule]:
        """The schedule of each kind of error, as `replication/retries.py` applies it."""
        return {
            **SCHEDULES,
            "error": Schedule(self.error_delay, self.factor, self.error_retries),
            "timeout": Schedule(self.timeout_delay, self.factor, self.timeout_retries),
        }


class WorkerSettings(SettingsModel):
    """How much one worker process takes on at once, and what memory that may need (`memory_bound`)."""

    control_slots: Count = 100
    transfer_slots: Count = 8
    bulk_slots: Count = 4
    """Scans of passes at once; the small objects that all of them have under way are bounded together."""
    streams: Count = 4
    """Parts copied at once within one activity."""
    memory: Size = 512 * MIB
    graceful_stop: Duration = 30.0
    metrics: HostPort | None = None
    """Address that serves Prometheus metrics; None serves none."""
    health: HostPort | None = None
    """Address that answers `/livez`, `/readyz` and `/info`; None answers nothing."""
    retries: RetrySettings = RetrySettings()

    @property
    def threads(self) -> int:
        """Threads for blocking calls (files, credentials): one for each stream, and some for looking."""
        return min(64, self.transfer_slots * self.streams + 8)


def memory_bound(worker: WorkerSettings, stores: Iterable[StoreSettings]) -> int:
    """The most bytes that a worker of these settings needs:

        150 MiB + 64 MiB + 12 MiB x S3 stores + 4 MiB x (other stores + CDNs) + 2 MiB x transfer_slots x streams
        + 256 KiB x control_slots + 8 MiB x bulk_slots

    Object size and part size do not enter: bytes are streamed. An S3-compatible endpoint that verifies no checksum
    trailer is the exception: parts without a known checksum are gathered there before they are sent.
    """
    return (
        MEMORY_BASE
        + GATHERED_BYTES
        + sum(_memory_of(store) for store in stores)
        + worker.transfer_slots * worker.streams * MEMORY_STREAM
        + worker.control_slots * MEMORY_CONTROL_SLOT
        + worker.bulk_slots * MEMORY_SCAN
    )


def _memory_of(store: StoreSettings) -> int:
    return MEMORY_S3_STORE + len(store.cdn) * MEMORY_STORE if isinstance(store, S3Settings) else MEMORY_STORE


def _ledger_url(value: str) -> str:
    """Accepts `sqlite:///path` and `postgresql://user@host/db`; a password there is a literal secret and is refused."""
    try:
        url = urlsplit(value)
        password = url.password is not None or any("password" in name.lower() for name, _ in parse_qsl(url.query))
    except ValueError:
        raise ValueError("is not a URL") from None
    if password:
        raise ValueError("must not hold a password: a secret never stands here (PGPASSWORD or a password file holds it)")
    if not re.match(r"sqlite:///[^?#]", value) and not (value.startswith("postgresql://") and url.path.strip("/")):
        raise ValueError("must be sqlite:///path or postgresql://user@host/database")
    return value


def _store_names(stores: dict[str, StoreSettings]) -> dict[str, StoreSettings]:
    if wrong := [name for name in stores if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9\-_.]{0,62}", name)]:
        raise ValueError(f"'{wrong[0]}' cannot be a store's name: 1 to 63 letters, digits, '-', '_' and '.'")
    return stores


class Settings(SettingsModel):
    """Everything that `drayage.yaml` says. Made by `load_settings` or `parse_settings`, which check it as a whole."""

    temporal: TemporalSettings = TemporalSettings()
    ledger: Annotated[str, AfterValidator(_ledger_url)] = "sqlite:///drayage.db"
    stores: Annotated[dict[str, StoreSettings], AfterValidator(_store_names)] = Field(default_factory=dict)
    routes: tuple[RouteSettings, ...] = ()
    ingest: IngestSettings = IngestSettings()
    notify: NotifySettings | None = None
    worker: WorkerSettings = WorkerSettings()

    @cached_property
    def routes_by_name(self) -> dict[str, Route]:
        return {
            route.name: build_route(route, self.stores[route.source.store], self.stores[route.destination.store]) for route in self.routes
        }

    @cached_property
    def counterparts(self) -> dict[str, Route]:
        """For each route that another one leads back from, that other one."""
        by_ends = {(route.source_id, route.destination_id): route for route in self.routes_by_name.values()}
        pairs = {name: by_ends.get((route.destination_id, route.source_id)) for name, route in self.routes_by_name.items()}
        return {name: back for name, back in pairs.items() if back is not None}

    def route(self, name: str) -> Route:
        """The route of that name. Raises `RouteUnknown`."""
        try:
            return self.routes_by_name[name]
        except KeyError:
            known = ", ".join(self.routes_by_name) or "none"
            raise RouteUnknown(f"no route '{name}' in the configuration (routes: {known})") from None


def settings_path(path: Path | None, environ: Mapping[str, str]) -> Path:
    """`path`, or the file that DRAYAGE_CONFIG names, or `drayage.yaml` here."""
    return path or Path(environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Reads the file that `settings_path` names. Raises `SettingsError` with every problem."""
    path = settings_path(path, environ)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError([f"{path}: {error.strerror} (--config PATH or {PATH_VARIABLE} name the configuration)"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{path}: is not UTF-8"]) from None
    return parse_settings(parse_document(text, str(path)))


def check_roots(settings: Settings, real_path: Callable[[Path], Path]) -> None:
    """Raises `SettingsError` for routes that meet once the links in the roots of file systems are followed, as `real_path` does.

    Buckets and prefixes are never links."""
    stores = {
        name: store.model_copy(update={"root": real_path(store.root)}) if isinstance(store, FileSettings) else store
        for name, store in settings.stores.items()
    }
    routes = dict(enumerate(settings.routes))
    sound = Sound(
        stores=stores,
        sources={index: route.source for index, route in routes.items()},
        destinations={index: route.destination for index, route in routes.items()},
        parts={},
        watches={},
        store_names=frozenset(stores),
        route_names={index: route.name for index, route in routes.items()},
    )
    if problems := cross_problems(sound):
        raise SettingsError(problems)


def parse_settings(document: Any) -> Settings:
    """The settings in a plain document of mappings, lists and scalars. Raises `SettingsError` with every problem."""
    problems: list[str] = []
    settings = None
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        problems = describe(error, document, Settings)
    if isinstance(document, dict):
        sound = _sound_parts(document)
        problems += cross_problems(sound) + _memory_problems(document, sound)
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


def _sound_parts(document: dict[str, Any]) -> Sound:
    stores, routes = _items(document.get("stores")), _mappings(document.get("routes"))
    ingest = document.get("ingest")
    watches = _items(ingest.get("watch")) if isinstance(ingest, dict) else {}
    location = TypeAdapter(LocationSettings)
    return Sound(
        stores=_valid(TypeAdapter(StoreSettings), stores),
        sources=_valid(location, {index: route.get("source") for index, route in routes.items()}),
        destinations=_valid(location, {index: route.get("destination") for index, route in routes.items()}),
        parts=_valid(TypeAdapter(PartsSettings), {index: route.get("parts") or {} for index, route in routes.items()}),
        watches=_valid(TypeAdapter(WatchSettings), watches),
        store_names=frozenset(str(name) for name in stores),
        route_names={index: str(route["name"]) for index, route in routes.items() if "name" in route},
    )


def _mappings(section: Any) -> dict[int, dict[str, Any]]:
    return {index: item for index, item in _items(section).items() if isinstance(item, dict)}


def _items(section: Any) -> dict[Any, Any]:
    if isinstance(section, dict):
        return section
    return dict(enumerate(section)) if isinstance(section, list) else {}


def _valid(adapter: TypeAdapter[V], items: Mapping[K, Any]) -> dict[K, V]:
    found: dict[K, V] = {}
    for key, item in items.items():
        try:
            found[key] = adapter.validate_python(item)
        except ValidationError:
            continue  # its problems are told where the whole document is validated
    return found


def _memory_problems(document: dict[str, Any], sound: Sound) -> list[str]:
    worker = _valid(TypeAdapter(WorkerSettings), {"worker": document.get("worker") or {}}).get("worker")
    if worker is None:
        return []
    bound = memory_bound(worker, sound.stores.values())
    if bound <= worker.memory:
        return []
    return [
        f"worker.memory: {format_size(worker.memory)} is less than the {format_size(bound)} that "
        f"{worker.control_slots} control slots and {worker.transfer_slots} transfer slots of {worker.streams} streams "
        f"with {len(sound.stores)} stores may need"
    ]

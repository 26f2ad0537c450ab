"""SOURCE and DESTINATION of `sync`: from a URL or a path to a store's settings, a bucket and a prefix, and back. Pure.

    s3://bucket/prefix?region=…&endpoint=http://…&access_key_id=env:NAME&secret_access_key=env:NAME&path_style=true
    gs://bucket/prefix?project=…&endpoint=http://…&anonymous=true
    file:///folder, or a plain path

The fields of a query are those of the store's section of `drayage.yaml`. URLs are decoded exactly once, plain paths never.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from pydantic import TypeAdapter, ValidationError

from replication.errors import UsageError
from replication.route_settings import LocationSettings
from replication.settings_checks import overlap
from replication.settings_file import describe
from replication.store_settings import FileSettings, GcsSettings, S3Settings, SettingsModel, StoreSettings

Argument = Literal["SOURCE", "DESTINATION"]

_SCHEMES: dict[str, tuple[str, type[SettingsModel]]] = {"s3": ("s3", S3Settings), "gs": ("gcs", GcsSettings)}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOST_SLASHES = re.compile(r"(?:s3|gs|gcs|file):", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BOOLS = {"true": True, "false": False}


class Place(NamedTuple):
    """One side: `store` is the store's section of a configuration, with references instead of secrets."""

    store: dict[str, Any]
    bucket: str
    prefix: str

    @property
    def settings(self) -> StoreSettings:
        return TypeAdapter[StoreSettings](StoreSettings).validate_python(self.store)

    @property
    def folder(self) -> str | None:
        """The path of a folder; None for a bucket."""
        if self.store["type"] != "file":
            return None
        return f"{self.store['root'].rstrip('/')}/{self.bucket}/{self.prefix}".rstrip("/")


class _BadUrl(Exception):
    """The text, after the argument's name, of a line for people. Never repeats what may be a secret."""


def parse_place(argument: Argument, text: str, resolve: Callable[[str], str]) -> Place:
    """The place that `text` names; `resolve` makes a path absolute, without links, `.` and `..`.

    Raises `UsageError` in one line that names the argument and the field.
    """
    try:
        place = _parse(text, resolve)
        _check(LocationSettings, {"store": "store", "bucket": place.bucket, "prefix": place.prefix})
    except _BadUrl as error:
        raise UsageError(f"argument {argument}: {error}") from None
    return place


def beside(other: Place, place: Place) -> Place:
    """`place` as it is meant beside `other`: what files are copied to or from is a folder, with or without a '/' at its end."""
    if other.folder is None or _is_folder(place):
        return place
    return place._replace(prefix=f"{place.prefix}/")


def check_pair(source: Place, destination: Place) -> None:
    """Raises `UsageError` for two places that share keys, or two buckets of which only one is meant as a folder."""
    sides = {"source": source, "destination": destination}
    stores = {name: place.settings for name, place in sides.items()}
    here, there = (LocationSettings(store=name, bucket=place.bucket, prefix=place.prefix) for name, place in sides.items())
    if overlap(stores, here, there):
        raise UsageError("argument DESTINATION: overlaps SOURCE: what is copied there would be copied again")
    if _is_folder(source) != _is_folder(destination):
        side: Argument = "DESTINATION" if _is_folder(source) else "SOURCE"
        raise UsageError(f"argument {side}: prefix: does not end in '/', but that of the other side does: end both in '/', or neither")


def url_of(place: Place) -> str:
    """The URL that `parse_place` reads as this place."""
    if place.folder is not None:
        return f"file://{quote(place.folder)}"
    scheme = next(scheme for scheme, (kind, _) in _SCHEMES.items() if kind == place.store["type"])
    fields = "&".join(f"{name}={quote(_text(value), safe='/:')}" for name, value in place.store.items() if name != "type")
    return f"{scheme}://{quote(place.bucket, safe='')}/{quote(place.prefix)}{'?' if fields else ''}{fields}"


def short_url(place: Place) -> str:
    """The same without the fields of the store: what a person reads."""
    return url_of(place).partition("?")[0]


def _parse(text: str, resolve: Callable[[str], str]) -> Place:
    if not text:
        raise _BadUrl("is empty: a URL (s3://, gs://, file://) or a folder is needed")
    match = _SCHEME.match(text)
    if match is None:
        if _LOST_SLASHES.match(text):
            raise _BadUrl("scheme: two slashes are missing after the colon")
        return _folder(text, resolve)
    scheme, rest = match[1].lower(), text[match.end() :]
    if scheme == "file":
        return _file_url(rest, resolve)
    if scheme not in _SCHEMES:
        raise _BadUrl(f"scheme: '{scheme}' is unknown: write s3://, gs:// or file://, or the path of a folder")
    return _bucket_url(scheme, rest)


def _bucket_url(scheme: str, rest: str) -> Place:
    kind, model = _SCHEMES[scheme]
    path, _, query = _split(rest)
    authority, _, prefix = path.partition("/")
    if not authority:
        raise _BadUrl(f"bucket: is missing: write {scheme}://bucket/prefix")
    if "@" in authority:
        raise _BadUrl("bucket: must not hold a user or password: credentials are fields such as ?access_key_id=env:NAME")
    if re.search(r":[0-9]*$", authority):
        raise _BadUrl("bucket: must not hold a port: a server is a field, ?endpoint=http://host:port")
    store = {"type": kind, **_fields(query, kind, model)}
    _check(model, store)
    return Place(store, _decoded("bucket", authority), _decoded("prefix", prefix))


def _file_url(rest: str, resolve: Callable[[str], str]) -> Place:
    path, asks, query = _split(rest)
    if not path.startswith("/"):
        raise _BadUrl("host: a file URL has none: write file:///folder")
    if asks:
        name = query.partition("=")[0]
        raise _BadUrl(f"{_name(name)}: unknown field: a file URL has none")
    return _folder(_decoded("path", path), resolve)


def _folder(path: str, resolve: Callable[[str], str]) -> Place:
    """The deepest directory whose name a bucket may have is the bucket; what lies below it is the prefix."""
    if "\0" in path:
        raise _BadUrl("path: holds a NUL character")
    names = resolve(path).strip("/").split("/")
    for at in range(len(names) - 1, -1, -1):
        if _can_be_bucket(names[at]):
            store = {"type": "file", "root": "/" + "/".join(names[:at])}
            _check(FileSettings, store)
            return Place(store, names[at], "".join(f"{name}/" for name in names[at + 1 :]))
    raise _BadUrl("path: is no folder below the root of the file system")


def _can_be_bucket(name: str) -> bool:
    try:
        LocationSettings(store="store", bucket=name)
    except ValidationError:
        return False
    return True


def _split(rest: str) -> tuple[str, str, str]:
    """What stands before the query, the question mark if there is one, and the query."""
    if "#" in rest:
        raise _BadUrl("holds a '#': write it as %23")
    return rest.partition("?")


def _fields(query: str, kind: str, model: type[SettingsModel]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in filter(None, query.split("&")):
        name, _, raw = item.partition("=")
        value = _decoded(_name(name), raw)
        if name == "type" or name not in model.model_fields:
            _check(model, {_name(name): None, "type": kind})  # tells it with the field that may be meant
            raise _BadUrl(f"{_name(name)}: unknown field")
        if name in found:
            raise _BadUrl(f"{name}: is given twice")
        if not value:
            raise _BadUrl(f"{name}: is empty")
        found[name] = _BOOLS.get(value, value) if "bool" in str(model.model_fields[name].annotation) else value
    return found


def _name(text: str) -> str:
    """A field's name for a line: nothing that a terminal would act upon, and no more than a name needs."""
    return ascii(text[:40])[1:-1] or "?"


def _decoded(field: str, text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise _BadUrl(f"{field}: holds a '%' without two hexadecimal digits: write it as %25")
    try:
        decoded = unquote_to_bytes(text.encode()).decode()
    except UnicodeError:
        raise _BadUrl(f"{field}: is not UTF-8") from None
    if "\0" in decoded:
        raise _BadUrl(f"{field}: holds a NUL character")
    return decoded


def _check(model: type[SettingsModel], document: dict[str, Any]) -> None:
    try:
        model.model_validate(document)
    except ValidationError as error:
        problem = describe(error, document, model)[0].removeprefix("settings: ")
        raise _BadUrl(problem.replace(" (a prefix goes into 'prefix')", "")) from None


def _is_folder(place: Place) -> bool:
    return not place.prefix or place.prefix.endswith("/")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

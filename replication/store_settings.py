"""The settings of stores: where an endpoint is and, by reference, how to sign in to it."""

from __future__ import annotations

import ipaddress
import posixpath
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from replication.limits import FILE_LIMITS, GCS_LIMITS, S3_LIMITS, Limits
from replication.secrets import SecretRef
from replication.units import Duration, Size

LIMITS: dict[Literal["s3", "gcs", "file"], Limits] = {"s3": S3_LIMITS, "gcs": GCS_LIMITS, "file": FILE_LIMITS}
"""What each kind of store can hold."""

GCS_ENDPOINT = "https://storage.googleapis.com"
_METADATA_HOSTS = {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
_METADATA_ADDRESSES = {ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")}
_AWS_HOST = re.compile(r"s3[.-](?:[a-z0-9.-]+\.)?amazonaws\.com(\.cn)?")


class SettingsModel(BaseModel):
    """Base of every section: frozen, no unknown fields, and an empty field (`include:`) means its default."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None or name not in cls.model_fields}


StrictBool = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]


def split_url(value: str) -> SplitResult:
    """The parts of an http(s) URL without a user. Raises ValueError; no message repeats the value, it may hold a password."""
    try:
        url = urlsplit(value)
        port_is_read = url.port != 0
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not url.hostname or not port_is_read or re.search(r"\s", value):
        raise ValueError("must be an http:// or https:// URL")
    if "@" in url.netloc:
        raise ValueError("must not hold a user or password")
    check_host(url.hostname)
    if any(not 1 <= len(label) <= 63 for label in url.hostname.removesuffix(".").split(".")) and ":" not in url.hostname:
        raise ValueError("must name a host: each part between two dots has 1 to 63 characters")
    return url


def check_host(host: str) -> None:
    """Raises ValueError for a host that serves a machine's own credentials: no object store is there.

    Addresses are recognised in every spelling that a resolver takes: dotted, decimal, hexadecimal, IPv4 in IPv6.
    """
    name = host.rstrip(".").lower()
    address = _address(name)
    mapped = getattr(address, "ipv4_mapped", None) or address
    if name in _METADATA_HOSTS or (mapped is not None and (mapped.is_link_local or mapped in _METADATA_ADDRESSES)):
        raise ValueError("must not be a link-local or metadata address")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None


def _check_endpoint(value: str) -> str:
    url = split_url(value)
    if url.path not in ("", "/") or "?" in value or "#" in value:
        raise ValueError("must not hold a path or query")
    return value.rstrip("/")


Endpoint = Annotated[str, AfterValidator(_check_endpoint)]


def _region(value: str) -> str:
    if len(value) > 63 or not re.fullmatch(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", value):
        raise ValueError("must be a region's name such as us-east-1")
    return value


Region = Annotated[str, AfterValidator(_region)]
"""It becomes part of the name of AWS's endpoint, and of what is signed."""


def endpoint_identity(endpoint: str) -> str:
    """`scheme://host:port` of an endpoint in one spelling, so that two names of one endpoint are seen to be one."""
    url = split_url(endpoint)
    host = "127.0.0.1" if url.hostname == "localhost" else url.hostname
    port = url.port or (443 if url.scheme == "https" else 80)
    return f"{url.scheme}://[{host}]:{port}" if host and ":" in host else f"{url.scheme}://{host}:{port}"


def _account(value: str) -> str:
    if not re.fullmatch(r"[0-9]{12}", value):
        raise ValueError("must be an AWS account id of twelve digits, in quotes")
    return value


class StoreLimits(SettingsModel):
    """What a store may be asked for: bytes a second and requests a second, read and written together, over all workers."""

    bandwidth: Annotated[Size, Field(gt=0)] | None = None
    requests: Annotated[float, Field(gt=0)] | None = None


class StorePrices(SettingsModel):
    """What a store asks, in any one currency: for 1,000 reads (lists count as reads), 1,000 writes, and a GiB that leaves it."""

    reads: Annotated[float, Field(ge=0)] = 0.0
    writes: Annotated[float, Field(ge=0)] = 0.0
    egress: Annotated[float, Field(ge=0)] = 0.0


def _below(value: str) -> str:
    url = split_url(value)
    if "?" in value or "#" in value:
        raise ValueError("must not hold a query")
    return value if url.path else f"{value}/"


def _replacements(value: dict[str, str]) -> dict[str, str]:
    for old, new in value.items():
        if not old or not re.fullmatch(r"[!-~]*", old + new) or re.search(r"[?#]", new):
            raise ValueError("must replace text of an encoded URL with such text, without a query")
    return value


class CdnSettings(SettingsModel):
    """A content delivery network that objects of a bucket are read through. Without a key pair its URLs are public."""

    bucket: Annotated[str, Field(min_length=1)]
    prefix: str = ""
    """Only keys that begin with it are read there."""
    url: Annotated[str, AfterValidator(_below)]
    """What stands in front of a whole key."""
    rewrite: Annotated[dict[str, str], AfterValidator(_replacements)] = {}
    """Text in the percent-encoded key, and what replaces it."""
    key_pair_id: Annotated[str, Field(pattern=r"^[A-Z0-9]{1,64}$")] | None = None
    """Of CloudFront; with it URLs are signed."""
    private_key: SecretRef | None = None
    """RSA, in PEM form."""
    signed_for: Annotated[Duration, Field(ge=60, le=365 * 86_400)] = 7 * 86_400.0

    @model_validator(mode="after")
    def _a_signature_needs_both(self) -> CdnSettings:
        if (self.key_pair_id is None) != (self.private_key is None):
            raise ValueError("key_pair_id and private_key belong together: give both or neither")
        return self


class S3Settings(SettingsModel):
    """Amazon S3 (no `endpoint`) or a store that speaks its API. Without keys, the default AWS credential chain."""

    type: Literal["s3"]
    region: Region = "us-east-1"
    endpoint: Endpoint | None = None
    access_key_id: SecretRef | None = None
    secret_access_key: SecretRef | None = None
    session_token: SecretRef | None = None
    path_style: StrictBool | None = None
    """None: path-style with an `endpoint`, virtual-hosted without."""
    expected_bucket_owner: Annotated[str, AfterValidator(_account)] | None = None
    """AWS account id that must own every bucket of this store."""
    cdn: tuple[CdnSettings, ...] = ()
    """The first that serves a key is asked for its bytes."""
    limits: StoreLimits | None = None
    prices: StorePrices | None = None

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> S3Settings:
        check_key_pair(self.access_key_id, self.secret_access_key, self.session_token)
        return self

    @property
    def identity(self) -> str:
        aws = _AWS_HOST.fullmatch(urlsplit(self.endpoint).hostname or "") if self.endpoint else None
        if self.endpoint and not aws:
            return f"s3 {endpoint_identity(self.endpoint)}"
        partition = next((name for start, name in _PARTITIONS.items() if self.region.startswith(start)), "aws")
        return f"s3 {partition}"

    def address(self, bucket: str, prefix: str) -> str:
        return f"{bucket}/{prefix}"


_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "us-isob-": "aws-iso-b", "eusc-": "aws-eusc"}
"""Bucket names are unique within a partition, so region does not matter within one."""


class GcsSettings(SettingsModel):
    """Google Cloud Storage, or an emulator of it. Signs in with application default credentials unless `anonymous`."""

    type: Literal["gcs"]
    project: str | None = None
    endpoint: Endpoint | None = None
    anonymous: StrictBool = False
    limits: StoreLimits | None = None
    prices: StorePrices | None = None

    @property
    def identity(self) -> str:
        return f"gcs {endpoint_identity(self.endpoint or GCS_ENDPOINT)}"

    def address(self, bucket: str, prefix: str) -> str:
        return f"{bucket}/{prefix}"


def _absolute(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError("must be an absolute path")
    path = Path(value)
    if not path.is_absolute() or "\0" in str(value):
        raise ValueError("must be an absolute path")
    if ".." in path.parts:
        raise ValueError("must not hold '..'")
    return Path(posixpath.normpath(path))


class FileSettings(SettingsModel):
    """A file system. Buckets are the directories directly under `root`."""

    type: Literal["file"]
    root: Annotated[Path, BeforeValidator(_absolute)]
    limits: StoreLimits | None = None
    prices: StorePrices | None = None

    @property
    def identity(self) -> str:
        return "file"

    def address(self, bucket: str, prefix: str) -> str:
        return f"{str(self.root).rstrip('/')}/{bucket}/{prefix}"


StoreSettings = Annotated[S3Settings | GcsSettings | FileSettings, Field(discriminator="type")]
"""`identity` names the endpoint and `address` a place in it: two locations overlap when their identities are equal and
one address starts with the other."""


def check_key_pair(access_key_id: str | None, secret_access_key: str | None, session_token: str | None) -> None:
    """Raises ValueError unless both keys are there, or none."""
    if (access_key_id is None) != (secret_access_key is None):
        raise ValueError("access_key_id and secret_access_key belong together: give both or neither")
    if session_token is not None and access_key_id is None:
        raise ValueError("session_token needs access_key_id and secret_access_key")


def _host_port(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535 or re.search(r"[\s/@]", host):
        raise ValueError("must be host:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("must be host:port, an IPv6 address in [brackets]")
    return value


HostPort = Annotated[str, AfterValidator(_host_port)]

"""Secrets by reference: `env:NAME` or `file:/path`. A secret itself never stands in the configuration or in a payload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from replication.errors import SettingsError

_ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_FILE = re.compile(r"file:/[^\0\n]+")


def check_reference(value: str) -> str:
    """Returns `value` if it is a reference, else raises ValueError. The message never repeats the value."""
    if not _ENV.fullmatch(value) and not _FILE.fullmatch(value):
        raise ValueError("must be a reference, env:NAME or file:/absolute/path: a secret itself never stands here")
    return value


SecretRef = Annotated[str, AfterValidator(check_reference)]


def resolve_secret(ref: str, environ: Mapping[str, str], *, field: str = "") -> str:
    """The secret that `ref` points at, read now. A file's trailing line break is not part of it.

    Raises `SettingsError` naming `field` and the variable or file when there is none, or it cannot be one.
    """
    scheme, _, name = ref.partition(":")
    where = f"{field}: " if field else ""
    if scheme != "env":
        return _usable(_read_secret(Path(name), where), name, where)
    if secret := environ.get(name):
        return _usable(secret, f"the environment variable {name}", where)
    raise SettingsError([f"{where}the environment variable {name} is not set"])


def _usable(secret: str, origin: str, where: str) -> str:
    """Every secret travels in a header, or signs one."""
    if not secret.isprintable():
        raise SettingsError([f"{where}{origin} holds a line break or another character that no secret has"])
    return secret


def _read_secret(path: Path, where: str) -> str:
    try:
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError([f"{where}cannot read {path}: {what}"]) from None
    if not secret:
        raise SettingsError([f"{where}{path} is empty"])
    return secret

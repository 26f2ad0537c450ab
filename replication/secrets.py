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


def resolve_secret(ref: str, environ: Mapping[str, str], *, field: str = "", lines: bool = False) -> str:
    """The secret that `ref` points at, read now. A file's trailing line break is not part of it; `lines` allows others (a key
    in PEM form has them).

    Raises `SettingsError` naming `field` and the variable or file when there is none, or it cannot be one.
    """
    scheme, _, name = ref.partition(":")
    where = f"{field}: " if field else ""
    if scheme != "env":
        secret, origin = _read_secret(Path(name), where), name
    else:
        secret, origin = environ.get(name, ""), f"the environment variable {name}"
        if not secret:
            raise SettingsError([f"{where}{origin} is not set"])
    return _usable(secret, origin, where, lines)


def _usable(secret: str, origin: str, where: str, lines: bool) -> str:
    """Every secret travels in a header, or signs one."""
    if not all(line.isprintable() for line in (secret.splitlines() if lines else [secret])):
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

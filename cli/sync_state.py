"""What `sync` keeps of one pair of places between its runs, and the configuration that it makes for its worker.

`$XDG_STATE_HOME/drayage/sync-<16 hex digits>/` holds the Temporal server's database, the ledger, the configuration, logs,
and a lock file. Nothing in it is secret.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cli.sync_urls import Place
from replication.errors import UsageError
from replication.route_settings import LocationSettings
from replication.routes import location_id

CONTROL_SLOTS = 64
STREAMS = 4
GRACEFUL_STOP_S = 5
"""Parts that are under way when a run is interrupted get this long to end; later ones are copied again."""


def pair_id(source: Place, destination: Place) -> str:
    """16 hex digits for a pair of places, however the URLs spell them and whoever signs in."""
    ids = (location_id(p.settings, LocationSettings(store="store", bucket=p.bucket, prefix=p.prefix)) for p in (source, destination))
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:16]


def state_home(environ: Mapping[str, str]) -> Path:
    """Where the states of all pairs are. A relative XDG_STATE_HOME does not count, says its specification."""
    named = Path(environ.get("XDG_STATE_HOME", ""))
    home = named if named.is_absolute() else Path(environ.get("HOME") or Path.home()) / ".local" / "state"
    return home / "drayage"


class State:
    """The folder of one pair. Nothing is made before `locked`."""

    def __init__(self, home: Path, pair: str, *, dry: bool = False) -> None:
        self.home = home
        self.name = f"sync-{pair}"
        """Also the name of the route, so that marks and receipts of different pairs never meet."""
        self.folder = home / self.name
        self.config = self.folder / "drayage.yaml"
        self.database = self.folder / ("dry-run.db" if dry else "temporal.db")
        """Of its own for dry runs: no worker of theirs may go on with an interrupted pass that writes."""
        self.ledger = self.folder / "ledger.db"
        self.worker_log = self.folder / "worker.log"
        self.nothing = self.folder / "nothing"
        """An empty folder: the destination of a dry run into a folder that is not there yet."""

    @property
    def ledger_url(self) -> str:
        """Of the whole path: commands that are given the configuration run anywhere."""
        return f"sqlite:///{self.ledger.absolute()}"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Raises `UsageError` while another process is inside. The lock ends with its process, however that ends."""
        if "?" in str(self.folder):
            raise UsageError(f"{self.folder}: a '?' cannot stand in the URL of a ledger (XDG_STATE_HOME says where states are kept)")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("a+")
        except OSError as error:
            raise UsageError(f"{self.folder}: {error.strerror} (XDG_STATE_HOME says where states are kept)") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise UsageError(
                    f"another sync of this SOURCE and DESTINATION is running (process {lock.read(20).strip() or '?'})"
                ) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def rotate_logs(self) -> None:
        """The logs of the last run stay beside those of this one."""
        for name in ("server.log", "worker.log"):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).replace(self.folder / f"{name}.old")

    def forget_workflows(self) -> None:
        """Removes the server's database, once nothing in it is open. The ledger stays."""
        for suffix in ("", "-journal", "-wal", "-shm"):
            self.database.with_name(self.database.name + suffix).unlink(missing_ok=True)

    def write_config(self, document: Mapping[str, Any]) -> None:
        self.config.write_text(f"# Made by `starter.py sync` for each run.\n{yaml.safe_dump(dict(document), sort_keys=False)}")


def configuration(
    state: State, source: Place, destination: Place, *, deletes: Mapping[str, Any] | None, address: str, cpus: int | None
) -> dict[str, Any]:
    """The configuration of a worker that runs in the state's folder, with one route."""
    route: dict[str, Any] = {
        "name": state.name,
        "source": {"store": "source", "bucket": source.bucket, "prefix": source.prefix},
        "destination": {"store": "destination", "bucket": destination.bucket, "prefix": destination.prefix},
        "exclude": own_files(state, source),
    }
    if deletes is not None:
        route["deletes"] = dict(deletes)
    return {
        "temporal": {"address": address},
        "ledger": state.ledger_url,
        "stores": {"source": source.store, "destination": destination.store},
        "routes": [route],
        "worker": {
            "control_slots": CONTROL_SLOTS,
            # Transfers wait for the network and for two checksums; more than a few for each processor only wait for each other.
            "transfer_slots": max(4, min(16, 2 * (cpus or 1))),
            "streams": STREAMS,
            "graceful_stop": GRACEFUL_STOP_S,
            # Half a minute of retries: a person is waiting, and what rests in `failed` is tried again by the next run.
            "retries": {"error_delay": 2},
        },
    }


def own_files(state: State, source: Place) -> list[str]:
    """The pattern of the states of all pairs, where the source is a folder around them: they change while it is read."""
    home = str(state.home.resolve())
    if source.folder is None or not home.startswith(f"{source.folder}/"):
        return []
    below = home[len(source.folder) + 1 :]
    return ["".join(f"[{c}]" if c in "*?[" else c for c in below) + "/**"]

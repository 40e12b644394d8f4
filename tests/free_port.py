"""A port that nothing listens on."""

import socket


def free_port() -> int:
    """A free port of 127.0.0.1; the system deals out others before it deals out this one again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

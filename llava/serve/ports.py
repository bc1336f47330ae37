"""Where a server listens."""

from __future__ import annotations

import socket


def free_port(host: str, port: int) -> int:
    """The port, or for 0 a free one. Raises ValueError where it is in use or the host is not this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be listened at ({error}); give another --port, or 0 for a free one"
        ) from None

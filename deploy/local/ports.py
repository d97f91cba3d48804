"""Free TCP ports and waiting for them, on loopback."""

from __future__ import annotations

import socket
import time

from deploy.local.errors import StackError


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_for_port(host: str, port: int, timeout_s: float, what: str) -> None:
    """Wait until somebody accepts connections.

    Raises
    ------
    StackError
        If nobody does within `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((host, port), timeout=1):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise StackError(f"{what} does not listen on {host}:{port} after {timeout_s:g} s: {error}") from error
            time.sleep(0.05)

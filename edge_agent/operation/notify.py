"""Tells systemd how the service is (`sd_notify`), and feeds its watchdog only while there is progress.

Without ``NOTIFY_SOCKET`` in the environment nothing happens.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)
_FEEDS_PER_TIMEOUT = 4


class Notifier:
    """The service manager, as far as it wants to hear.

    Parameters
    ----------
    environment
        Where systemd says how to reach it, and after which silence it restarts the service.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        timeout = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(timeout) / 1e6 if meant and timeout.isdigit() and int(timeout) else None
        """Silence after which the service is restarted [s]; None: never."""
        self._fed_at = 0.0
        self._told = ""

    def ready(self) -> None:
        """The service has started, or has taken a new configuration."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The service is taking a new configuration."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1")

    def feed(self, trouble: Callable[[float], str | None]) -> None:
        """Feed the watchdog if it is time and there is no trouble.

        Parameters
        ----------
        trouble
            Says what has made no progress for so many seconds, if anything.
        """
        if self.watchdog_s is None or time.monotonic() - self._fed_at < self.watchdog_s / _FEEDS_PER_TIMEOUT:
            return
        found = trouble(self.watchdog_s)
        if found is None:
            self._fed_at = time.monotonic()
            self._told = ""
            self._send("WATCHDOG=1")
        elif found != self._told:
            self._told = found
            _log.error("the watchdog is not fed any more: %s", found)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                channel.sendto(message.encode(), self._address)
        except OSError as error:
            _log.warning("systemd can't be told %s: %s", message.partition("\n")[0], error)

"""The API as a thread: uvicorn with a clean stop.

Invariants

- `start` returns when the socket listens, or raises; `port` is the port it listens on then, also where the
  configuration said 0.
- `stop` lets running requests end.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence

import uvicorn

from cloud_ingest.api.app import create_app
from cloud_ingest.api.config import ApiConfig
from cloud_ingest.errors import CloudError
from cloud_ingest.signals import Signals

_log = logging.getLogger(__name__)
GRACE_S = 10
"""How long running requests may take to end [s]."""


class ListenError(CloudError):
    """The API can't listen on its address."""


class Server:
    """Serves the API until told to stop.

    Parameters
    ----------
    config, dsn, signals, waiting_for
        As `create_app` takes them.
    """

    def __init__(
        self,
        config: ApiConfig,
        dsn: str,
        signals: Signals,
        waiting_for: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        self._config = config
        settings = uvicorn.Config(
            create_app(config, dsn, signals, waiting_for),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
            lifespan="on",
        )
        self._server = uvicorn.Server(settings)
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)

    @property
    def port(self) -> int:
        """Port it listens on; 0 before `start`."""
        return 0 if self._socket is None else int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen and serve.

        Raises
        ------
        ListenError
            If the address can't be used.
        """
        host, port = self._config.host, self._config.port
        try:
            self._socket = _listen(host, port)
        except OSError as error:
            raise ListenError(f"api.host {host!r}, api.port {port}: can't listen there: {error}") from error
        self._thread.start()
        _log.info("API listens on http://%s:%d", host, self.port, extra={"host": host, "port": self.port})

    def stop(self) -> None:
        """Stop listening, let running requests end, and close the connections."""
        self._server.should_exit = True
        self._thread.join(GRACE_S + 20)
        if self._thread.is_alive():
            _log.error("the API did not stop within %d s", GRACE_S + 20)
        if self._socket is not None:
            self._socket.close()

    def _run(self) -> None:
        assert self._socket is not None
        self._server.run(sockets=[self._socket])


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # Connections inherit the protocol number, and asyncio turns Nagle's delay off only where it says TCP.
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    return listening

"""A tiny HTTP responder for one page of text: no keep-alive, no more than a few clients at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)
_HEAD_BYTES = 8192
_TIMEOUT_S = 5.0
_MOST_CLIENTS = 8
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}


class Responder:
    """Serves `page` under `path` once it has started.

    Parameters
    ----------
    path
        Such as ``/metrics``.
    page
        Makes the text.
    """

    def __init__(self, path: str, page: Callable[[], Awaitable[str]]) -> None:
        self._path = path
        self._page = page
        self._clients: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port.

        Raises
        ------
        OSError
            If that is not possible.
        """
        self._server = await asyncio.start_server(self._serve, host, port, limit=_HEAD_BYTES)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def stop(self) -> None:
        """Stop listening, and hang up on clients."""
        if self._server is None:
            return
        self._server.close()
        for client in tuple(self._clients):
            client.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= _MOST_CLIENTS:
            writer.transport.abort()
            return
        self._clients.add(writer)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, text, with_body = await self._answer(head)
                body = text.encode()
                lines = (
                    f"HTTP/1.1 {status} {_PHRASES[status]}",
                    f"Content-Type: {_CONTENT_TYPE}",
                    f"Content-Length: {len(body)}",
                    "Connection: close",
                )
                writer.write("\r\n".join((*lines, "", "")).encode() + (body if with_body else b""))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            _log.debug("a client for metrics was dropped: %r", error)
        finally:
            self._clients.discard(writer)
            writer.transport.abort()

    async def _answer(self, head: bytes) -> tuple[int, str, bool]:
        """Status, text, and whether it is sent."""
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return 400, "not HTTP/1\n", True
        method, target, _ = words
        if target.partition("?")[0] != self._path:
            return 404, f"there is only {self._path}\n", method != "HEAD"
        if method not in ("GET", "HEAD"):
            return 405, "allowed: GET, HEAD\n", True
        try:
            return 200, await self._page(), method != "HEAD"
        except Exception:  # noqa: BLE001 (a mistake in the page must not reach the agent)
            _log.exception("the page %s failed", self._path)
            return 500, "failed; the log says why\n", method != "HEAD"

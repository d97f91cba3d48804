"""Status message: how an agent is, for displays. Nothing depends on it.

Published every minute or so, not retained and with QoS 0: an old one says nothing, and a lost one is followed by
the next. Ingest does not subscribe to it. What an agent is not (there) is in its `protocols.session` record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from protocols import topics, wire
from protocols.errors import PayloadError, TopicError


@dataclass(frozen=True, slots=True)
class BufferStatus:
    """What waits in the buffer.

    Attributes
    ----------
    pending
        Messages that the store has not confirmed.
    size
        What counts against the buffer's limit [B].
    oldest_s
        Age of the oldest reading among them [s]; 0 if there is none.
    """

    pending: int
    size: int
    oldest_s: int


@dataclass(frozen=True, slots=True)
class Status:
    """How an agent is.

    Attributes
    ----------
    tenant, agent
        As in the topic.
    at_us
        Real time of the message [µs UTC].
    software
        Name and version.
    uptime_s
        Since the process started [s].
    synchronised
        Whether the operating system says that the clock is disciplined by a time source.
    buffer
        What waits in it; None if it did not answer in time.
    units_good, units_bad
        Devices all of whose points are good, and the others.
    overruns
        Poll times that passed without a poll, since the start.
    reconnects
        Connections to the broker after the first.
    commit_latency_ms
        Of the last message that was committed: from its publication to the word of it [ms]; None before the first.
    """

    tenant: str
    agent: str
    at_us: int
    software: str
    uptime_s: int
    synchronised: bool
    buffer: BufferStatus | None
    units_good: int
    units_bad: int
    overruns: int
    reconnects: int
    commit_latency_ms: int | None

    def encode(self) -> bytes:
        """JSON bytes."""
        buffer = self.buffer
        return orjson.dumps(
            {
                "v": 1,
                "tenant": self.tenant,
                "agent": self.agent,
                "at": self.at_us,
                "software": self.software,
                "uptime_s": self.uptime_s,
                "synchronised": self.synchronised,
                "buffer": buffer and {"pending": buffer.pending, "bytes": buffer.size, "oldest_s": buffer.oldest_s},
                "units": {"good": self.units_good, "bad": self.units_bad},
                "overruns": self.overruns,
                "reconnects": self.reconnects,
                "commit_latency_ms": self.commit_latency_ms,
            }
        )


_KEYS = {
    "v",
    "tenant",
    "agent",
    "at",
    "software",
    "uptime_s",
    "synchronised",
    "buffer",
    "units",
    "overruns",
    "reconnects",
    "commit_latency_ms",
}


def decode(payload: bytes) -> Status:
    """Decode a status message.

    Raises
    ------
    PayloadError
        If it is not valid.
    """
    document = wire.loads(payload, "status")
    wire.only(document, _KEYS, "status")
    wire.version(document, 1, "status")
    try:
        tenant = topics.check_name("tenant", wire.text(document, "tenant", "status"))
        agent = topics.check_name("agent", wire.text(document, "agent", "status"))
    except TopicError as error:
        raise PayloadError(f"status: {error}") from error
    units = wire.mapping(document, "units", "status")
    wire.only(units, {"good", "bad"}, "status.units")
    latency = document.get("commit_latency_ms")
    return Status(
        tenant,
        agent,
        wire.integer(document, "at", "status"),
        wire.text(document, "software", "status"),
        wire.integer(document, "uptime_s", "status", low=0),
        wire.boolean(document, "synchronised", "status"),
        _buffer(document),
        wire.integer(units, "good", "status.units", low=0),
        wire.integer(units, "bad", "status.units", low=0),
        wire.integer(document, "overruns", "status", low=0),
        wire.integer(document, "reconnects", "status", low=0),
        None if latency is None else wire.integer(document, "commit_latency_ms", "status", low=0),
    )


def _buffer(document: dict[str, Any]) -> BufferStatus | None:
    if document.get("buffer") is None:
        return None
    found = wire.mapping(document, "buffer", "status")
    wire.only(found, {"pending", "bytes", "oldest_s"}, "status.buffer")
    pending, size, oldest_s = (
        wire.integer(found, name, "status.buffer", low=0) for name in ("pending", "bytes", "oldest_s")
    )
    return BufferStatus(pending, size, oldest_s)

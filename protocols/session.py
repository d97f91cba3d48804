"""Session record: whether an agent is there, and which epochs its buffer holds.

Published retained at every connect; the broker publishes the offline form as last will. Ingest answers an
online record with a `protocols.committed` message that covers every epoch listed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import orjson

from protocols import topics, wire
from protocols.errors import PayloadError, TopicError

State = Literal["online", "offline"]


@dataclass(frozen=True, slots=True)
class Session:
    """State of an agent.

    Attributes
    ----------
    tenant, agent
        As in the topic.
    state
        Online, or offline: left in order, or the last will.
    session
        32 hex digits, drawn at every announcement; a last will carries that of its connection.
    at_us
        Real time of the record [µs UTC]; of a last will: when the connection was made.
    software
        Name and version.
    epochs
        Epochs in the buffer, sent or not, committed and retained ones too.
    detail
        Why offline: "stopped", "connection lost"; else "".
    """

    tenant: str
    agent: str
    state: State
    session: str
    at_us: int
    software: str
    epochs: tuple[str, ...] = field(default=())
    detail: str = ""

    def encode(self) -> bytes:
        """JSON bytes."""
        return orjson.dumps(
            {
                "v": 1,
                "tenant": self.tenant,
                "agent": self.agent,
                "state": self.state,
                "session": self.session,
                "at": self.at_us,
                "software": self.software,
                "epochs": self.epochs,
                "detail": self.detail,
            }
        )


def decode(payload: bytes) -> Session:
    """Decode a session record.

    Raises
    ------
    PayloadError
        If it is not valid.
    """
    document = wire.loads(payload, "session")
    allowed = {"v", "tenant", "agent", "state", "session", "at", "software", "epochs", "detail"}
    wire.only(document, allowed, "session")
    wire.version(document, 1, "session")
    state = wire.text(document, "state", "session")
    if state not in ("online", "offline"):
        raise PayloadError(f"session.state is {state!r}; allowed: online, offline")
    try:
        tenant = topics.check_name("tenant", wire.text(document, "tenant", "session"))
        agent = topics.check_name("agent", wire.text(document, "agent", "session"))
    except TopicError as error:
        raise PayloadError(f"session: {error}") from error
    epochs = wire.array(document, "epochs", "session")
    for epoch in epochs:
        wire.hex_digits({"epoch": epoch}, "epoch", 32, "session.epochs")
    return Session(
        tenant,
        agent,
        state,  # type: ignore[arg-type]
        wire.hex_digits(document, "session", 32, "session"),
        wire.integer(document, "at", "session"),
        wire.text(document, "software", "session"),
        tuple(epochs),
        wire.text(document, "detail", "session"),
    )

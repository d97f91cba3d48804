"""Committed message: what the store has of an agent's messages, so that the agent can free them.

Rules for the agent

- Within one incarnation of the store, what is committed only grows. An entry of an epoch with a lower
  position than one already applied is stale and ignored.
- A message of an incarnation older than the newest one seen is ignored.
- At a newer incarnation the agent announces its session again; the answer lists each epoch it holds, and
  every retained batch that the answer does not cover is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from protocols import wire
from protocols.errors import PayloadError


@dataclass(frozen=True, slots=True)
class EpochState:
    """What the store has of one epoch.

    Attributes
    ----------
    position
        Grows with every change of this entry within an incarnation; 0 if the store has nothing.
    through
        Contiguous watermark: every seq from 1 to this one is settled; 0 if none.
    ranges
        Settled seqs beyond the watermark, inclusive and ascending; the newest may be missing.
    """

    position: int
    through: int
    ranges: tuple[tuple[int, int], ...] = ()

    def covers(self, seq: int) -> bool:
        """Whether the store has this seq."""
        return seq <= self.through or any(first <= seq <= last for first, last in self.ranges)


@dataclass(frozen=True, slots=True)
class Committed:
    """State of some epochs of one agent.

    Attributes
    ----------
    incarnation
        32 hex digits; drawn anew when the database was restored.
    incarnation_us
        When it was drawn [µs UTC]; orders incarnations.
    epochs
        State per epoch.
    answers
        Session id that this message answers in full, or "" for an ordinary update.
    """

    incarnation: str
    incarnation_us: int
    epochs: dict[str, EpochState]
    answers: str = ""

    def encode(self) -> bytes:
        """JSON bytes."""
        return orjson.dumps(
            {
                "v": 1,
                "incarnation": self.incarnation,
                "incarnation_at": self.incarnation_us,
                "answers": self.answers,
                "epochs": {
                    epoch: {"position": state.position, "through": state.through, "ranges": state.ranges}
                    for epoch, state in self.epochs.items()
                },
            }
        )


def decode(payload: bytes) -> Committed:
    """Decode a committed message.

    Raises
    ------
    PayloadError
        If it is not valid.
    """
    document = wire.loads(payload, "committed")
    wire.only(document, {"v", "incarnation", "incarnation_at", "answers", "epochs"}, "committed")
    wire.version(document, 1, "committed")
    epochs = {}
    entries = wire.mapping(document, "epochs", "committed")
    for epoch, entry in entries.items():
        where = f"committed.epochs.{epoch}"
        wire.hex_digits({"epoch": epoch}, "epoch", 32, "committed")
        if type(entry) is not dict:
            raise PayloadError(f"{where} is {entry!r:.80}; allowed: an object")
        wire.only(entry, {"position", "through", "ranges"}, where)
        epochs[epoch] = EpochState(
            wire.integer(entry, "position", where, low=0),
            wire.integer(entry, "through", where, low=0),
            wire.ranges(entry.get("ranges"), f"{where}.ranges"),
        )
    return Committed(
        wire.hex_digits(document, "incarnation", 32, "committed"),
        wire.integer(document, "incarnation_at", "committed"),
        epochs,
        wire.text(document, "answers", "committed"),
    )

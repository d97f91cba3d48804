"""What every batch codec does: bytes from a batch, and the same batch from the bytes."""

from __future__ import annotations

from typing import Protocol

from protocols.reading import Batch


class Codec(Protocol):
    """A batch codec; its name and version are part of the topic."""

    name: str

    def encode(self, batch: Batch) -> bytes:
        """Encode a batch; equal batches give equal bytes."""
        ...

    def decode(self, payload: bytes) -> Batch:
        """Decode and check every rule of `protocols.reading`.

        Raises
        ------
        PayloadError
            If the bytes are not a valid batch; the message says where and why.
        """
        ...

    def identity(self, payload: bytes) -> tuple[str, int] | None:
        """(epoch, seq) of a payload that may be invalid otherwise, so that its sender can be answered."""
        ...

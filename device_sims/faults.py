"""What goes wrong with a device on purpose, and what that makes of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from protocols.config import Model
from protocols.timebase import US

FaultKind = Literal["silent", "nan", "length"]


class Fault(Model):
    """A fault and its time.

    Attributes
    ----------
    kind
        ``silent``: no answer. ``nan``: every register is 0xFFFF, which no float can be and many makers use
        for "no value". ``length``: half of the data under a byte count for all of them.
    first, last
        In TOML ``from`` and ``to``: plant time with UTC offset, `last` not included. None: open.
    """

    kind: FaultKind
    first: datetime | None = Field(default=None, alias="from")
    last: datetime | None = Field(default=None, alias="to")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for when in (self.first, self.last):
            if when is not None and when.tzinfo is None:
                raise ValueError(f"time {when.isoformat()} has no UTC offset; allowed: such as 2022-06-14T00:00+08:00")
        if self.first is not None and self.last is not None and self.first >= self.last:
            raise ValueError(f"from {self.first.isoformat()} is not before to {self.last.isoformat()}")
        return self

    def span_us(self) -> tuple[float, float]:
        """First and last plant time [µs UTC]; infinite where open."""
        return (
            -math.inf if self.first is None else self.first.timestamp() * US,
            math.inf if self.last is None else self.last.timestamp() * US,
        )


def _silent(_answer: bytes) -> bytes | None:
    return None


def _nan(answer: bytes) -> bytes | None:
    return answer[:2] + b"\xff" * (len(answer) - 2)


def _length(answer: bytes) -> bytes | None:
    return answer[: 2 + (len(answer) - 2) // 2]


EFFECTS: dict[FaultKind, Callable[[bytes], bytes | None]] = {"silent": _silent, "nan": _nan, "length": _length}
"""What becomes of a good answer (function, byte count, data); None: nothing is sent."""

"""What the fleet counts about itself; logged when it stops."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

log = logging.getLogger("device_sims")


@dataclass(slots=True)
class Signals:
    """Counts since the start.

    Attributes
    ----------
    connections
        Modbus connections accepted.
    refused_connections
        Closed at once, because a gateway had as many as it takes.
    requests
        Modbus requests with a valid frame.
    exceptions
        Of these, answered with an exception.
    unanswered
        Of these, left without an answer: unknown unit id, or a fault.
    malformed
        Frames that were not Modbus; each ended its connection.
    unencodable
        Requests whose values did not fit the registers.
    ticks
        Rounds of writing OPC-UA variables.
    """

    connections: int = 0
    refused_connections: int = 0
    requests: int = 0
    exceptions: int = 0
    unanswered: int = 0
    malformed: int = 0
    unencodable: int = 0
    ticks: int = 0

    def report(self) -> None:
        """Log all counts."""
        log.info("served: %s", ", ".join(f"{name} {count}" for name, count in asdict(self).items()))

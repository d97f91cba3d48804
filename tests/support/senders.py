"""A real outbox with a publisher, and nothing else of the agent."""

from __future__ import annotations

from concurrent.futures import wait
from pathlib import Path
from typing import Self

from edge_agent.buffer.outbox import Outbox
from edge_agent.config import Buffer, Mqtt
from edge_agent.publish.publisher import Publisher
from edge_agent.signals import Signals
from tests.edge_agent.buffer.test_outbox import draft, schema
from tests.support.waiting import wait_until


class Sender:
    """An outbox with a publisher for a broker on loopback.

    Parameters
    ----------
    path
        The buffer file.
    port
        Of the broker.
    mqtt
        Other settings of the broker; what the configuration forbids is possible too.
    """

    def __init__(self, path: Path, port: int, **mqtt: object) -> None:
        self.signals = Signals()
        self.outbox = Outbox(Buffer(path=path), "acme", "gw1", schema(), lambda: 5_000_000, self.signals)
        settings = Mqtt(host="127.0.0.1", port=port).model_copy(update=mqtt)
        self.publisher = Publisher(settings, "acme", "gw1", self.outbox, self.signals, "edge-agent test")
        self.appended = 0

    def append(self, count: int, readings: int = 10) -> None:
        """Append batches, and wait until they are on disk."""
        wait([self.outbox.append(draft(readings, n)) for n in range(count)], timeout=60)
        self.appended += count * readings

    def online(self) -> Self:
        """Wait until it is connected; what is appended then is live."""
        wait_until(lambda: self.signals.mqtt_version > 0, "the connection", every_s=0.02)
        return self

    def pending(self) -> int:
        """Messages that are not delivered."""
        return self.outbox.stats().result(60).records_pending

    def stop(self) -> None:
        """Stop both, once or again."""
        if self.publisher._thread.is_alive():
            self.publisher.stop()
        self.outbox.close()

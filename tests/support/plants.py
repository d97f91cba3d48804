"""Cement plants for tests: each on a loopback address of its own, so that several can run side by side."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from deploy.local.broker import Broker
from deploy.local.stack import Setting, Stack, running_stack

PACK = Path(__file__).resolve().parents[2] / "deploy" / "plants" / "cement"
ZONE = ZoneInfo("Asia/Shanghai")
FIRST = datetime(2022, 6, 14, 6, tzinfo=ZONE)
"""First plant instant that counts in these tests."""

_numbers = itertools.count(1)


def plant_host() -> str:
    """A loopback address that no other test uses."""
    return f"127.{1 + os.getpid() % 250}.{next(_numbers) % 250}.1"


@contextmanager
def cement_plant(
    directory: Path,
    dsn: str,
    broker: Broker,
    speed: float,
    fleet_arguments: Sequence[str] = (),
    first: datetime = FIRST,
) -> Iterator[Stack]:
    """A running cement plant with agent and cloud side, on a given database and broker."""
    directory.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        PACK, directory, dsn, broker, first, speed, plant_host=plant_host(), fleet_arguments=fleet_arguments
    )
    with running_stack(setting) as stack:
        yield stack

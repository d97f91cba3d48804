"""Agents that run from torn copies of a live buffer take nothing from the original, and double nothing of it."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import struct
import sys
from pathlib import Path

import psycopg
import pytest

from deploy.local.broker import Broker
from deploy.local.processes import Child
from deploy.local.tally import tally
from tests.support import edge
from tests.support.modbus_responder import Asked, Responder
from tests.support.observer import Observer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.services

TAGS = 30
UNITS = 4


def noise(asked: Asked) -> bytes:
    """Numbers that no compression makes smaller."""
    values = struct.pack(f">{asked.count // 4}d", *(random.random() for _ in range(asked.count // 4)))
    return asked.frame(bytes((asked.function, len(values))) + values)


@pytest.mark.timeout(200)
async def test_agents_from_torn_copies_take_nothing_from_the_original(
    plain_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    original, unlogged, torn = (tmp_path / name for name in ("original", "unlogged", "torn"))
    for directory in (original, unlogged, torn):
        directory.mkdir()
    async with Responder(noise) as device:
        with Observer(mosquitto) as observer, _agent(original, device.port, mosquitto) as agent:
            await asyncio.to_thread(_wait_for_messages, observer, 30)
            shutil.copyfile(original / "buffer", unlogged / "buffer")
            await asyncio.to_thread(_copy_while_it_is_written, original, torn, observer)
            with _agent(unlogged, device.port, mosquitto) as first, _agent(torn, device.port, mosquitto) as second:
                await asyncio.to_thread(_wait_for_messages, observer, 30)
                with Child("cloud-ingest", _ingest(plain_database_dsn, mosquitto, tmp_path), tmp_path / "ingest.log"):
                    stopped = await asyncio.gather(
                        *(asyncio.to_thread(child.stop, 90) for child in (agent, first, second))
                    )
    assert stopped == [0, 0, 0]
    report = json.loads((original / "report.json").read_text())
    assert report["records_pending"] == 0
    with psycopg.connect(plain_database_dsn) as connection:
        stored = connection.execute(
            "SELECT sum(readings) FROM ledger WHERE kind = 0 AND status = 0 AND epoch = ANY(%s::uuid[])",
            (report["epochs"],),
        ).fetchone()
        denied = connection.execute(
            "SELECT count(*) FROM ledger_epoch WHERE epoch = ANY(%s::uuid[]) AND dropped <> '{}'", (report["epochs"],)
        ).fetchone()
        copies = connection.execute(
            "SELECT count(*) FROM ledger_epoch WHERE NOT epoch = ANY(%s::uuid[])", (report["epochs"],)
        ).fetchone()
    # The copies lack records that the original has, know it, and do not declare them lost.
    log = (torn / "agent.log").read_text()
    assert "is corrupt" in log or "neither in the store nor in this buffer" in log
    assert stored == (report["readings_appended"],)
    assert denied == (0,)
    assert copies is not None
    assert copies[0] >= 2
    counted = tally(plain_database_dsn, 0)
    assert (counted.uneven_batches, counted.dead_letters, counted.parked) == (0, 0, 0), str(counted)


def _agent(directory: Path, port: int, broker: Broker) -> Child:
    """An agent with its buffer in a directory; all have one name."""
    text = edge.head(directory / "buffer", broker.port, mqtt="max_uncommitted = 1000\nresend_after_s = 2")
    text = text.replace("[mqtt]", "max_bytes = 2_000_000\n[mqtt]", 1)
    text = text.replace("poll_interval_s = 1\n", "poll_interval_s = 0.1\n") + edge.modbus(port)
    text += "\n[batch]\nmax_age_s = 0.05\n"
    for unit in range(1, UNITS + 1):
        tags = (edge.register(f"t{n}", 4 * n, "float64") for n in range(TAGS))
        text += edge.device(f"d{unit}", *tags, unit_id=unit)
    config = directory / "agent.toml"
    config.write_text(text)
    arguments = ["run", str(config), "--report", str(directory / "report.json"), "--drain-s", "60"]
    return Child("edge-agent", [sys.executable, "-m", "edge_agent", *arguments], directory / "agent.log")


def _wait_for_messages(observer: Observer, more: int) -> None:
    before = observer.messages()
    wait_until(lambda: observer.messages() >= before + more, "messages go by")


def _copy_while_it_is_written(original: Path, copy: Path, observer: Observer) -> None:
    """The file now, and its log when what was in it has gone to the file and other things have come."""
    shutil.copyfile(original / "buffer", copy / "buffer")
    _wait_for_messages(observer, 30)
    shutil.copyfile(original / "buffer-wal", copy / "buffer-wal")


def _ingest(dsn: str, broker: Broker, directory: Path) -> list[str]:
    file = directory / "ingest.toml"
    file.write_text(
        f"roles = ['ingest']\n[store]\ndsn = '''{dsn}'''\n[mqtt]\nhost = '{broker.host}'\nport = {broker.port}\n"
    )
    return [sys.executable, "-m", "cloud_ingest", "run", str(file)]

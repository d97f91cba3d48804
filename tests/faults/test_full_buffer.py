"""Where a full buffer forces a loss, a gap record says so, and everything else arrives once."""

from __future__ import annotations

import asyncio
import random
import struct
import sys
from pathlib import Path

import psycopg
import pytest

from deploy.local.broker import Broker
from deploy.local.processes import Child
from deploy.local.tally import readings_sent, tally
from edge_agent import points
from edge_agent.buffer.outbox import Outbox
from edge_agent.buffer.records import Draft
from edge_agent.signals import Signals
from protocols.reading import ClockState, Columns
from tests.support import edge
from tests.support.modbus_responder import Asked, Responder
from tests.support.waiting import wait_until

pytestmark = pytest.mark.services

MAX_BYTES = 1_000_000
TAGS = 30
JUNE_US = 1_655_136_000_000_000


def noise(asked: Asked) -> bytes:
    """Numbers that no compression makes smaller."""
    values = struct.pack(f">{asked.count // 4}d", *(random.random() for _ in range(asked.count // 4)))
    return asked.frame(bytes((asked.function, len(values))) + values)


@pytest.mark.timeout(200)
async def test_what_a_full_buffer_drops_is_declared_and_everything_else_arrives_once(
    plain_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    async with Responder(noise) as device:
        config = tmp_path / "agent.toml"
        text = edge.head(tmp_path / "buffer", mosquitto.port, mqtt="max_uncommitted = 40\nresend_after_s = 2")
        text = text.replace("[mqtt]", f"max_bytes = {MAX_BYTES}\n[mqtt]")
        text = text.replace("poll_interval_s = 1\n", "poll_interval_s = 0.1\n") + edge.modbus(device.port)
        for unit in range(1, 5):
            tags = (_tag(n) for n in range(TAGS))
            text += edge.device(f"d{unit}", *tags, unit_id=unit)
        config.write_text(text)
        report, log = tmp_path / "report.json", tmp_path / "agent.log"
        _fill(text)
        command = [sys.executable, "-m", "edge_agent", "run", str(config), "--report", str(report), "--drain-s", "60"]
        with Child("edge-agent", command, log) as agent:
            # Nobody stores anything yet. A kill while it drops leaves nothing half done.
            await asyncio.to_thread(_wait_for_drop, log)
            await asyncio.to_thread(agent.kill)
            agent.start()
            await asyncio.to_thread(_wait_for_drop, log)
            with Child("cloud-ingest", _ingest(plain_database_dsn, mosquitto, tmp_path), tmp_path / "ingest.log"):
                assert await asyncio.to_thread(agent.stop, 90) == 0
    counted = tally(plain_database_dsn, readings_sent(report))
    assert counted.declared_lost > 0, str(counted)
    assert (counted.lost, counted.uneven_batches, counted.dead_letters) == (0, 0, 0), str(counted)
    with psycopg.connect(plain_database_dsn) as conn:
        gaps = conn.execute("SELECT reason, cardinality(points), first_at <= last_at FROM gap").fetchall()
        missing = conn.execute("SELECT count(*) FROM ledger_epoch WHERE committed * dropped <> '{}'").fetchone()
    # Counters are dropped; whether gauges are thinned first depends on how many gather meanwhile.
    assert {reason for reason, *_ in gaps} - {"thinned"} == {"size_limit"}
    assert all(0 < count <= 4 * TAGS and ordered for _, count, ordered in gaps)
    # What was declared lost never came, and nothing else is missing.
    assert missing == (0,)


def _tag(number: int) -> str:
    """Gauges, which go first, and counters, which go last."""
    if number % 2:
        return edge.register(f"t{number}", 4 * number, "float64")
    return (
        f'[[device.tag]]\nname = "t{number}"\nquantity = "active_energy"\nunit = "kWh"\nkind = "counter"\n'
        f'medium = "electricity"\ntable = "holding"\naddress = {4 * number}\ntype = "float64"\n'
    )


def _fill(text: str) -> None:
    """Leave behind what an agent that never reached its broker would have: a buffer nearly full of counters."""
    plan = points.load(text, "agent.toml", {})
    agent = plan.config.agent
    outbox = Outbox(plan.config.buffer, agent.tenant, agent.name, plan.schema, lambda: JUNE_US, Signals())
    counters, used = [index for index, point in enumerate(plan.schema.points) if point.kind == "counter"], 0
    while used < 0.95 * MAX_BYTES:
        columns = Columns(counters, [0] * len(counters), [random.random() for _ in counters])
        state = ClockState(synchronised=True, boot_id="b", monotonic_us=1)
        outbox.append(Draft(plan.schema.id(), JUNE_US, state, JUNE_US, {"float": columns}))
        used = outbox.stats().result().bytes_used
    outbox.close()


def _ingest(dsn: str, broker: Broker, directory: Path) -> list[str]:
    file = directory / "ingest.toml"
    file.write_text(
        f"roles = ['ingest']\n[store]\ndsn = '''{dsn}'''\n[mqtt]\nhost = '{broker.host}'\nport = {broker.port}\n"
    )
    return [sys.executable, "-m", "cloud_ingest", "run", str(file)]


def _wait_for_drop(log: Path) -> None:
    told = _drops(log)
    wait_until(lambda: _drops(log) > told, "the agent drops data")


def _drops(log: Path) -> int:
    return log.read_text().count("size_limit") if log.exists() else 0

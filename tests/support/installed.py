"""Proves an agent that was installed somewhere: its values reach a database."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg

from cloud_ingest.ingest.config import IngestConfig, MqttConfig
from cloud_ingest.ingest.service import Ingest
from cloud_ingest.signals import Signals
from cloud_ingest.store import migrate
from cloud_ingest.store.config import StoreConfig
from deploy.local.broker import Broker
from tests.support import edge

REGISTER = 217
FIRST = ("plant/oven/heat", 108.5)
"""The point that `config` describes, and what it reads from a register that holds its own address."""


def config(broker: Broker, meter_port: int) -> str:
    """An agent.toml with one meter on loopback."""
    device = edge.device("oven", edge.register("heat", REGISTER, extra="scale = 0.5"))
    return edge.head("buffer.sqlite", broker.port, broker.mqtt_version) + edge.modbus(meter_port) + device


async def first_value(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], dsn: str, broker: Broker
) -> tuple[str, float]:
    """Run an agent until something of it is in the database, and stop it in order."""
    await asyncio.to_thread(_make_tables, dsn)
    mqtt = MqttConfig(host=broker.host, port=broker.port, version=5, client_id="installed")
    ingest = Ingest(StoreConfig(dsn=dsn), mqtt, IngestConfig(), Signals())
    await asyncio.to_thread(ingest.start)
    agent = await asyncio.create_subprocess_exec(*command, cwd=folder, env=dict(environment))
    try:
        deadline = time.monotonic() + 60
        while not (found := await asyncio.to_thread(_stored, dsn)):
            assert time.monotonic() < deadline
            assert agent.returncode is None
            await asyncio.sleep(0.2)
        agent.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(agent.wait(), 60) == 0
    finally:
        if agent.returncode is None:
            agent.kill()
            await agent.wait()
        await asyncio.to_thread(ingest.stop)
    return found[0]


def _make_tables(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        migrate.migrate(conn)


def _stored(dsn: str) -> list[tuple[str, float]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(
            "SELECT point.name, value FROM reading_float JOIN point USING (point_id) ORDER BY at"
        ).fetchall()

"""What an agent publishes, read by a client and a JSON parser that share no code with it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.local.broker import Broker
from deploy.local.processes import Child
from tests.support import edge
from tests.support.modbus_responder import Asked, Responder

pytestmark = pytest.mark.services


def answer(asked: Asked) -> bytes:
    """Registers hold their own address, coils are on."""
    return asked.frame(b"\x01\x01\xff") if asked.function == 1 else asked.counting()


async def test_mosquitto_sub_reads_batches_and_their_schema(
    mosquitto: Broker, tmp_path: Path, independent_client: Callable[[str], list[str]]
) -> None:
    async with Responder(answer) as device:
        config = tmp_path / "agent.toml"
        config.write_text(
            edge.head(tmp_path / "buffer", mosquitto.port, mqtt="resend_after_s = 600")
            + edge.modbus(device.port)
            + edge.device("oven", edge.register("hot", 400), edge.register("count", 30, "uint32"), edge.bit("on", 8))
        )
        command = [sys.executable, "-m", "edge_agent", "run", str(config), "--drain-s", "0"]
        with Child("edge-agent", command, tmp_path / "agent.log") as agent:
            topic = "metercarbon/1/acme/gw1"
            # Births are retained: they come to whoever subscribes later, too.
            client = [*independent_client("mosquitto_sub"), "-h", mosquitto.host, "-p", str(mosquitto.port)]
            birth = json.loads((await _read(client, f"{topic}/birth/+", 1))[0])
            batches = [json.loads(line) for line in await _read(client, f"{topic}/data/json1", 6)]
            session = json.loads((await _read(client, f"{topic}/session", 1))[0])
            assert await asyncio.to_thread(agent.stop) == 0
    names = _require_schema(birth)
    for batch in batches:
        _require_form(batch, birth)
    assert [batch["seq"] for batch in batches] == list(range(batches[0]["seq"], batches[0]["seq"] + len(batches)))
    found = {
        (names[point], value, quality)
        for batch in batches
        for group in ("f", "i", "b", "s")
        for point, _, value, quality in _rows(batch, group)
    }
    assert found == {("oven/hot", 400, 0), ("oven/count", 30 << 16 | 31, 0), ("oven/on", True, 0)}
    assert (session["state"], session["epochs"]) == ("online", [birth["epoch"]])


async def _read(client: list[str], topic: str, count: int) -> list[str]:
    """Payloads of so many messages."""
    process = await asyncio.create_subprocess_exec(
        *client, "-q", "1", "-t", topic, "-C", str(count), stdout=asyncio.subprocess.PIPE
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return printed.decode().splitlines()


def _require_schema(birth: dict[str, Any]) -> list[str]:
    """The id is the digest of the canonical bytes; returns the names of the points by index."""
    canonical = json.dumps(birth["schema"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert birth["id"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert birth["schema"]["site"] == "plant"
    return [f"{point['device']}/{point['tag']}" for point in birth["schema"]["points"]]


def _require_form(batch: dict[str, Any], birth: dict[str, Any]) -> None:
    assert {"v", "tenant", "agent", "epoch", "seq", "schema", "at", "clock", "t0"} <= batch.keys()
    assert batch.keys() <= {"v", "tenant", "agent", "epoch", "seq", "schema", "at", "clock", "t0", "f", "i", "b", "s"}
    assert (batch["v"], batch["tenant"], batch["agent"]) == (1, "acme", "gw1")
    assert (batch["epoch"], batch["schema"]) == (birth["epoch"], birth["id"])
    assert batch["seq"] > birth["seq"]
    assert batch["clock"].keys() == {"sync", "boot", "mono"}
    now_us = birth["at"]
    for group in batch.keys() & {"f", "i", "b", "s"}:
        rows = _rows(batch, group)
        assert rows
        for _, offset_us, value, quality in rows:
            assert abs(batch["t0"] + offset_us - now_us) < 600_000_000
            assert (value is None) == (quality >= 128)


def _rows(batch: dict[str, Any], group: str) -> list[tuple[int, int, Any, int]]:
    """Point, time offset, value and quality of each reading; all columns have one length."""
    columns = batch.get(group, {"p": [], "t": [], "v": []})
    qualities = columns.get("q", [0] * len(columns["p"]))
    return list(zip(columns["p"], columns["t"], columns["v"], qualities, strict=True))

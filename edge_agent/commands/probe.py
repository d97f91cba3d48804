"""`probe`: one poll of every device, shown and forgotten.

Promises

- The readings come through the same drivers as in a run, so a good probe means good readings.
- Nothing is sent, no buffer is made or opened.
- A device is polled once; again only for what that poll left out, and only for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from edge_agent.buffer.batcher import Batcher
from edge_agent.buffer.records import Draft
from edge_agent.clock import Clock
from edge_agent.drivers.base import Driver
from edge_agent.drivers.modbus import ModbusDriver
from edge_agent.errors import EdgeError
from edge_agent.points import ModbusBus, ModbusDevice, NodeTag, OpcUaBus, Plan, RegisterTag
from edge_agent.polling.reporter import Reporter
from edge_agent.signals import Signals
from protocols import quality as qualities
from protocols.birth import Point
from protocols.modbus.requests import Request
from protocols.reading import Value

WAIT_S = 5.0
"""How long a connection is polled again for what is still missing [s], real time."""
_PAUSE_S = 0.25
_CLOSE_S = 2.0


class UnknownDeviceError(EdgeError):
    """The configuration has no device of that name."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found: lines to print, and how many tags there are and how many are good."""

    lines: tuple[str, ...]
    tags: int
    good: int


@dataclass(slots=True)
class _Found:
    """What one connection gave: readings by point, raw entries by unit, table and address, times by turn [s]."""

    readings: dict[int, tuple[Value, int]] = field(default_factory=dict)
    raw: dict[tuple[int, str, int], str] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)


def run(plan: Plan, device: str | None = None, wait_s: float = WAIT_S) -> Probe:
    """Poll all devices once, or one of them.

    Raises
    ------
    UnknownDeviceError
        If there is no device of that name.
    """
    buses = [_only(bus, device) for bus in plan.buses]
    buses = [bus for bus in buses if bus.devices]
    if not buses:
        known = ", ".join(found.name for bus in plan.buses for found in bus.devices)
        raise UnknownDeviceError(f"device {device!r} is unknown; allowed: {known}")
    results = asyncio.run(_all(plan, buses, wait_s))
    lines: list[str] = []
    for bus, found in zip(buses, results, strict=True):
        lines += _lines(plan, bus, found)
    tags = [tag.index for bus in buses for one in bus.devices for tag in one.tags]
    readings = {index: reading for found in results for index, reading in found.readings.items()}
    good = sum(1 for index in tags if index in readings and qualities.is_good(readings[index][1]))
    return Probe(tuple(lines), len(tags), good)


def _only(bus: ModbusBus | OpcUaBus, device: str | None) -> ModbusBus | OpcUaBus:
    if device is None:
        return bus
    if isinstance(bus, ModbusBus):
        return replace(bus, devices=tuple(one for one in bus.devices if one.name == device))
    return replace(bus, devices=tuple(one for one in bus.devices if one.name == device))


async def _all(plan: Plan, buses: Sequence[ModbusBus | OpcUaBus], wait_s: float) -> list[_Found]:
    return await asyncio.gather(*(_one(plan, bus, wait_s) for bus in buses))


async def _one(plan: Plan, bus: ModbusBus | OpcUaBus, wait_s: float) -> _Found:
    """Poll one connection until each of its points has a reading, or the time is up."""
    found = _Found()

    def take(draft: Draft) -> Future[None]:
        for group in draft.columns.values():
            for point, value, quality in zip(group.points, group.values, group.qualities, strict=True):
                found.readings[point] = value, quality
        done: Future[None] = Future()
        done.set_result(None)
        return done

    config = plan.config
    clock = Clock(config.clock.time_base(time.time_ns() // 1000), config.clock.simulated)
    batcher = Batcher(plan.schema.id(), config.batch, clock, take)
    driver = _driver(plan, bus, clock, Reporter(plan.schema, batcher), found)
    wanted = {tag.index for device in bus.devices for tag in device.tags}
    deadline = time.monotonic() + wait_s
    try:
        while True:
            for index, turn in enumerate(driver.turns):
                started = time.monotonic()
                await driver.poll(index)
                found.took_s.setdefault(turn.name, time.monotonic() - started)
            await batcher.drained()
            if wanted <= found.readings.keys() or time.monotonic() > deadline:
                return found
            await asyncio.sleep(_PAUSE_S)
    finally:
        await asyncio.wait([asyncio.ensure_future(driver.close())], timeout=_CLOSE_S)
        await batcher.drained()


def _driver(plan: Plan, bus: ModbusBus | OpcUaBus, clock: Clock, reporter: Reporter, found: _Found) -> Driver:
    if isinstance(bus, ModbusBus):
        return _Watching(found, bus, plan.config.polling, clock, reporter, Signals())
    # Imported only where it is used: it takes a second and tens of megabytes.
    from edge_agent.drivers.opcua import OpcUaDriver

    return OpcUaDriver(bus, clock, reporter, Signals())


class _Watching(ModbusDriver):
    """A Modbus driver that keeps what came over the wire."""

    def __init__(self, found: _Found, *rest: Any) -> None:
        super().__init__(*rest)
        self._found = found

    async def _request(self, request: Request) -> Any:
        answer = await super()._request(request)
        raw = getattr(answer, "raw", b"")[1:]
        for offset in range(request.count):
            entry = _entry(request.table, raw, offset)
            if entry:
                self._found.raw[request.unit_id, request.table, request.address + offset] = entry
        return answer


def _entry(table: str, raw: bytes, offset: int) -> str:
    """One register in hex, or one bit; empty if the answer is too short."""
    if table in ("holding", "input"):
        return raw[2 * offset : 2 * offset + 2].hex()
    return str(raw[offset // 8] >> offset % 8 & 1) if offset // 8 < len(raw) else ""


def _lines(plan: Plan, bus: ModbusBus | OpcUaBus, found: _Found) -> list[str]:
    lines = [f"connection {bus.settings.name}: {_took(sum(found.took_s.values()))}"]
    points = plan.schema.points
    for device in bus.devices:
        details = [f"unit_id {device.unit_id}"] if isinstance(device, ModbusDevice) else []
        if device.name in found.took_s:
            details.append(_took(found.took_s[device.name]))
        lines.append(f"  device {device.name}" + (": " + ", ".join(details) if details else ""))
        for tag in device.tags:
            raw = _raw(device, tag, found)
            lines.append("    " + _reading(points[tag.index], raw, found.readings.get(tag.index)))
    return lines


def _raw(device: object, tag: RegisterTag | NodeTag, found: _Found) -> str:
    if not isinstance(device, ModbusDevice) or not isinstance(tag, RegisterTag):
        return ""
    places = range(tag.field.address, tag.field.address + tag.field.count)
    entries = [found.raw.get((device.unit_id, tag.field.table, place), "") for place in places]
    return " ".join(entries) if all(entries) else "no answer"


def _reading(point: Point, raw: str, reading: tuple[Value, int] | None) -> str:
    place = f"{point.tag} ({point.address})"
    shown = f" [{raw}]" if raw else ""
    if reading is None:
        return f"{place}{shown}: no reading"
    value, quality = reading
    text = "no value" if value is None else f"{value} {point.unit}"
    return f"{place}{shown}: {text}, {qualities.label(quality)}"


def _took(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"

"""A fleet: the plant, and everything that shows it on sockets, built from a fleet file.

Invariants

- Building checks all that the file says and opens nothing; only `Fleet.start` does.
- Plant days are computed ahead of time in a thread, so that no request waits for one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import date
from pathlib import Path
from typing import Any

from device_sims.config import Device, FleetConfig, Gateway, OpcUaServer
from device_sims.errors import FleetError
from device_sims.kinds import registry
from device_sims.kinds.base import Value, Wiring, field_value
from device_sims.modbus.device import ModbusDevice
from device_sims.modbus.gateway import ModbusGateway
from device_sims.modbus.registers import Cell, raw_value
from device_sims.opcua.server import VariableServer
from device_sims.plant.calendar import ordinal_at
from device_sims.plant.plant import Moment, Plant
from device_sims.signals import Signals
from device_sims.truth import TruthLog
from protocols.errors import CatalogueError, RegisterValueError
from protocols.meters import catalogue
from protocols.meters.schema import Field, RegisterMap
from protocols.modbus import words
from protocols.timebase import US

log = logging.getLogger(__name__)

_AHEAD_US = 24 * 3600 * US
_KEEP_US = 24 * 3600 * US
_STEP_US = 24 * 3600 * US
_HOUSEKEEPING_S = 0.5
_LEAST_TICK_S = 0.005


class Fleet:
    """A simulated fleet.

    Parameters
    ----------
    config
        The fleet file.
    truth
        Where the truth log goes; None: nowhere.

    Attributes
    ----------
    points
        Counters, as ``device/field`` or ``server/node``, and the series that each of them counts.

    Raises
    ------
    FleetError
        If the parts of the file do not fit together.
    """

    def __init__(self, config: FleetConfig, truth: Path | None = None) -> None:
        self.config = config
        self.signals = Signals()
        started_us = time.time_ns() // 1000
        self.clock = config.clock.time_base(started_us)
        self.origin_us = self.clock.origin_us if config.clock.origin else started_us
        self.plant = Plant(config, _first_day(config, self.origin_us))
        self.points: dict[str, str] = {}
        self.gateways = [self._gateway(gateway) for gateway in config.gateways]
        self.servers = [self._server(server) for server in config.opcua]
        self._truth_path = truth
        self._truth: TruthLog | None = None
        self._prepared_us = self.plant.start_us
        self._housekeeper: asyncio.Task[None] | None = None

    def now(self) -> Moment:
        """The plant now."""
        return self.plant.at(self.clock.now_us())

    async def start(self) -> None:
        """Open all sockets, or none.

        Raises
        ------
        ServeError
            If one can't be opened.
        TruthError
            If the truth log can't be written.
        """
        try:
            if self._truth_path is not None:
                self._truth = TruthLog(self._truth_path, self.plant, self.points, self.origin_us)
            await asyncio.to_thread(self._keep_up)
            for part in self._parts():
                await part.start()
            if self._truth is not None:
                self._truth.publish()
        except BaseException:
            await self.stop()
            raise
        self._housekeeper = asyncio.create_task(self._housekeeping(), name="housekeeping")

    async def stop(self) -> None:
        """Close all sockets and write the rest of the truth log."""
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.gather(self._housekeeper, return_exceptions=True)
            self._housekeeper = None
        for part in self._parts():
            await part.stop()
        if self._truth is not None:
            self._truth.write_until(self.clock.now_us())
            self._truth.close()
            self._truth = None

    async def wait_until(self, stop: asyncio.Event) -> None:
        """Wait for the event; a background task that fails ends the wait with its error."""
        stopped = asyncio.create_task(stop.wait())
        background = [task for task in (self._housekeeper, *(server.ticker for server in self.servers)) if task]
        done, _ = await asyncio.wait((stopped, *background), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in done:
            task.result()

    def _parts(self) -> tuple[ModbusGateway | VariableServer, ...]:
        return (*self.gateways, *self.servers)

    def ready(self) -> dict[str, Any]:
        """What listens where."""
        return {
            "plant": self.config.plant.name,
            "modbus": {gateway.name: f"{gateway.host}:{gateway.port}" for gateway in self.gateways},
            "opcua": {server.name: f"opc.tcp://{server.host}:{server.port}" for server in self.servers},
            "devices": sum(len(gateway.devices) for gateway in self.gateways),
            "clock": {
                "origin_us": self.clock.origin_us,
                "anchor_us": self.clock.anchor_us,
                "speed": self.clock.speed,
            },
        }

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            # Shielded, so that a stop never leaves the thread writing a log that is being closed.
            work = asyncio.ensure_future(asyncio.to_thread(self._keep_up))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await work
                raise

    def _keep_up(self) -> None:
        """Compute what will be asked for, log what has passed, forget what is done: day by day, in bounded memory."""
        now_us = self.clock.now_us()
        until_us = now_us + _AHEAD_US
        while self._prepared_us < until_us:
            self._prepared_us = min(self._prepared_us + _STEP_US, until_us)
            self.plant.prepare(self._prepared_us)
            passed_us = min(self._prepared_us, now_us)
            needed_us = passed_us - _KEEP_US
            if self._truth is not None:
                self._truth.write_until(passed_us)
                needed_us = min(needed_us, self._truth.next_us)
            self.plant.release(needed_us)

    def _gateway(self, gateway: Gateway) -> ModbusGateway:
        return ModbusGateway(
            gateway.name,
            gateway.host,
            gateway.port,
            {device.unit_id: self._device(device) for device in gateway.devices},
            self.now,
            unknown_unit_answers=gateway.unknown_unit == "exception",
            max_connections=gateway.max_connections,
            signals=self.signals,
        )

    def _device(self, device: Device) -> ModbusDevice:
        model = self._model(device)
        kind = registry.KINDS[device.kind]
        where = f"device {device.name!r}"
        layout = self.plant.layout
        columns = {}
        for role, series in device.measures.items():
            columns[role] = layout.column(series, f"{where}.series")
            if layout.unit(series) != kind.roles[role]:
                raise FleetError(
                    f"{where}.series {role}: {series!r} is in {layout.unit(series)}; allowed: {kind.roles[role]}"
                )
        counters = [field.name for field in model.fields if field.kind == "counter"]
        for key, names in (("start", device.start), ("modulus", device.modulus)):
            for name in names:
                if name not in counters:
                    raise FleetError(f"{where}.{key}: {name!r} is not a counter; allowed: {', '.join(counters)}")
        wiring = Wiring(device.name, columns, kind.options.model_validate(device.options))
        cells = []
        for field in model.fields:
            text = field.value_type == "text"
            value = _no_text if text else field_value(kind, wiring, field, device.start.get(field.name, 0.0))
            modulus = device.modulus.get(field.name, field.modulus)
            raw = raw_value(field, value, modulus)
            self._check_fit(field, raw, modulus, where)
            cells.append(Cell(field, model.orders(field), raw))
            counted = kind.counted(field)
            if counted is not None and counted in device.measures:
                self.points[f"{device.name}/{field.name}"] = device.measures[counted]
        return ModbusDevice(
            device.name,
            cells,
            model.limits,
            refuse_holes=device.holes == "refuse",
            fault=device.fault,
            signals=self.signals,
        )

    def _model(self, device: Device) -> RegisterMap:
        for model in self.config.models:
            if model.name == device.model:
                return model
        try:
            return catalogue.model(device.model)
        except CatalogueError as error:
            here = ", ".join(model.name for model in self.config.models) or "none"
            raise FleetError(f"device {device.name!r}.model: {error}; in this file: {here}") from error

    def _check_fit(self, field: Field, raw: Value, modulus: float | None, where: str) -> None:
        if field.value_type in ("bool", "text"):
            return
        if modulus is not None and not field.type.startswith("float"):
            counts = modulus / field.scale
            if abs(counts - round(counts)) > 1e-6 * counts:
                raise FleetError(
                    f"{where}.modulus {field.name}: {modulus:g} is not a whole number of counts; "
                    f"allowed: multiples of {field.scale:g}"
                )
        try:
            words.encode(field.type, raw(self.plant.at(self.plant.start_us)))
        except RegisterValueError as error:
            raise FleetError(f"{where}.field {field.name!r}: {error}") from error

    def _server(self, server: OpcUaServer) -> VariableServer:
        kind = registry.SERVER_KINDS[server.kind]
        nodes: dict[str, Value] = {}
        for node in server.nodes:
            try:
                nodes[node.id] = kind.bind(node, self.plant.layout)
            except FleetError as error:
                raise FleetError(f"server {server.name!r}.{error}") from error
            if node.value == "total":
                self.points[f"{server.name}/{node.id}"] = node.of
        if server.tick_ms is not None:
            tick_s = server.tick_ms / 1000
        else:
            tick_s = max(_LEAST_TICK_S, self.clock.real_seconds(server.tick_plant_s or 0.0))
        return VariableServer(
            server.name,
            server.host,
            server.port,
            f"urn:metercarbon:sim:{self.config.plant.name}",
            nodes,
            frozenset(node.id for node in server.nodes if node.value == "running"),
            tick_s,
            self.now,
            self.signals,
        )


def _no_text(_: Moment) -> float:
    return 0.0


def _first_day(config: FleetConfig, origin_us: int) -> date:
    today = ordinal_at(config.plant.timezone, origin_us)
    start = config.plant.start
    if start is None:
        return date.fromordinal(today - 1)
    if start.toordinal() > today:
        raise FleetError(f"plant.start {start} is after the clock's origin; allowed: up to {date.fromordinal(today)}")
    return start

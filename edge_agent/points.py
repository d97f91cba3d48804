"""From a configuration to what is polled: the schema of points, and per connection the devices with their tags.

Nothing is connected here. Every problem is found, each named by file, device, tag, value and what is allowed.

Devices that differ only in name, serial number, unit id and times are planned once: they share a `Layout`, and the
definitions of their points. Of the configuration only what a run needs is kept.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from edge_agent import config as settings
from edge_agent.config import AgentConfig
from protocols import config as documents
from protocols.birth import Point
from protocols.config import ConfigError
from protocols.errors import CatalogueError, DecodePlanError
from protocols.meters import catalogue
from protocols.meters.schema import Field, Limits, Order, RegisterMap, RegisterType, TableName
from protocols.modbus import requests
from protocols.modbus.requests import Cost, FieldAddress, Request
from protocols.modbus.words import TEXT_TYPES
from protocols.reading import ValueType
from protocols.roster import Member, Roster, Sheet
from protocols.timebase import US

_NODE = re.compile(r"(ns=\d+;)?(i=\d+|s=.+|g=[0-9a-fA-F-]{36}|b=.+)")
_FIELD_KEYS = tuple(key for key in settings.Tag.model_fields if key in Field.model_fields and key != "name")
_MODBUS_KEYS = (
    "field",
    "table",
    "address",
    "type",
    "bit",
    "length",
    "word_order",
    "byte_order",
    "no_value",
    "keep_raw",
)
_DEADBANDS = ("deadband", "deadband_percent")
_NEEDED_MODBUS = ("quantity", "unit", "kind", "table", "address", "type")
_NEEDED_OPCUA = ("quantity", "unit", "kind", "node")
_OWN: dict[str, Any] = {"name": "-", "connection": "-", "unit_id": None, "phase_s": 0.0, "serial": None}
"""What devices that are planned together may differ in."""
_HEARTBEATS_PER_GAP_LIMIT = 3
_LAST_SERIAL_UNIT = 247
_RAW = ".raw"


@dataclass(frozen=True, slots=True)
class Register:
    """Where a value is and what it means; see `protocols.meters.schema.Field`."""

    name: str
    quantity: str
    unit: str
    table: TableName
    address: int
    count: int
    type: RegisterType
    part: int
    scale: float
    offset: float
    is_raw: bool
    no_value: int | None
    value_type: ValueType


@dataclass(frozen=True, slots=True)
class RegisterTag:
    """A tag read by Modbus: its index in the schema, its field, and the order of words and bytes.

    In a layout the index is the position among the tags of the device.
    """

    index: int
    field: Register
    word_order: Order
    byte_order: Order


@dataclass(frozen=True, slots=True)
class NodeTag:
    """A tag read by OPC-UA: its index in the schema, its node, and what becomes of the value.

    Attributes
    ----------
    sampling_s
        Subscriptions: how often the server looks at the node, real time [s].
    deadband, deadband_percent
        Subscriptions: changes up to this are not sent [raw unit], [% of the node's range]; 0: all are.
    """

    index: int
    node: str
    value_type: ValueType
    scale: float
    offset: float
    sampling_s: float = 1.0
    deadband: float = 0.0
    deadband_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    """When a device is polled, in plant time [µs]: at whole multiples of the interval plus the phase."""

    interval_us: int
    phase_us: int


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Layout:
    """What devices of one kind have in common; each is itself alone, so that it can name what is made for it.

    Attributes
    ----------
    limits
        What the devices can take.
    tags
        Tags, by position.
    requests
        What reads them, for unit 0; a request's fields are positions in `tags`.
    """

    limits: Limits
    tags: tuple[RegisterTag, ...]
    requests: tuple[Request, ...]

    def addresses(self) -> tuple[FieldAddress, ...]:
        """Where the tags are."""
        return tuple(_address(tag) for tag in self.tags)


@dataclass(frozen=True, slots=True)
class ModbusDevice:
    """A device: what it has in common with its kind, and the index in the schema of its first point."""

    name: str
    timing: Timing
    unit_id: int
    first: int
    layout: Layout

    @property
    def limits(self) -> Limits:
        """What it can take."""
        return self.layout.limits

    @property
    def points(self) -> range:
        """Indices of its points in the schema."""
        return range(self.first, self.first + len(self.layout.tags))

    @property
    def tags(self) -> tuple[RegisterTag, ...]:
        """Its tags, with their indices in the schema."""
        return tuple(replace(tag, index=self.first + tag.index) for tag in self.layout.tags)

    @property
    def requests(self) -> tuple[Request, ...]:
        """What reads its tags; a request's fields are positions in `tags`."""
        return tuple(replace(request, unit_id=self.unit_id) for request in self.layout.requests)


@dataclass(frozen=True, slots=True)
class OpcUaDevice:
    """A group of nodes, subscribed to or polled."""

    name: str
    timing: Timing
    tags: tuple[NodeTag, ...]
    subscribed: bool = False

    @property
    def points(self) -> tuple[int, ...]:
        """Indices of its points in the schema."""
        return tuple(tag.index for tag in self.tags)


@dataclass(frozen=True, slots=True)
class ModbusBus:
    """A Modbus connection and its devices."""

    settings: settings.Modbus
    devices: tuple[ModbusDevice, ...]


@dataclass(frozen=True, slots=True)
class OpcUaBus:
    """An OPC-UA connection and its groups of nodes."""

    settings: settings.OpcUa
    devices: tuple[OpcUaDevice, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run needs.

    Attributes
    ----------
    config
        Without its devices and models.
    schema
        The points.
    buses
        What is polled.
    """

    config: AgentConfig
    schema: Roster
    buses: tuple[ModbusBus | OpcUaBus, ...]


def load(text: str, file: str, environment: Mapping[str, str]) -> Plan:
    """Check a configuration and plan its polling.

    Raises
    ------
    ConfigError
        With every problem found, one a line.
    """
    try:
        packed = pickle.dumps(resolve(documents.parse(text, AgentConfig, file, environment), file))
    finally:
        settings.forget_lists()
    # What was read lies scattered among all that the file held, and would keep its memory from being given back.
    found: Plan = pickle.loads(packed)  # noqa: S301 (our own)
    return found


def resolve(config: AgentConfig, file: str) -> Plan:
    """Plan the polling of a configuration.

    Raises
    ------
    ConfigError
        With every problem found, one a line.
    """
    resolver = _Resolver(config)
    resolver.run()
    if resolver.problems:
        raise ConfigError("\n".join(f"{file}: {line}" for line in resolver.problems))
    buses = tuple(
        ModbusBus(bus, tuple(resolver.modbus.get(bus.name, ())))
        if isinstance(bus, settings.Modbus)
        else OpcUaBus(bus, tuple(resolver.opcua.get(bus.name, ())))
        for bus in config.connection
    )
    kept = config.model_copy(update={"device": (), "model": ()})
    return Plan(kept, Roster(config.agent.site, resolver.members), buses)


def _address(tag: RegisterTag) -> FieldAddress:
    return FieldAddress(tag.index, tag.field.table, tag.field.address, tag.field.count)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What devices share that are configured alike."""

    layout: Layout
    sheet: Sheet


class _Resolver:
    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.problems: list[str] = []
        self.members: list[Member] = []
        self._first = 0
        """Index of the device's first point."""
        self._points: list[Point] = []
        """Points of the device."""
        self._kinds: dict[tuple[settings.Device, frozenset[str], Cost], _Kind] = {}
        self._plans: dict[tuple[tuple[FieldAddress, ...], Limits, Cost], tuple[Request, ...]] = {}
        self._models = {model.name: model for model in config.model}
        self.modbus: dict[str, list[ModbusDevice]] = {}
        self.opcua: dict[str, list[OpcUaDevice]] = {}
        self._connections = {bus.name: bus for bus in config.connection}

    def run(self) -> None:
        if not self.config.device:
            self.problems.append("device: none; allowed: at least one [[device]]")
        self._distinct("connection", [bus.name for bus in self.config.connection])
        self._distinct("device", [device.name for device in self.config.device])
        self._distinct("model", [model.name for model in self.config.model])
        for name in sorted(self._models.keys() & set(catalogue.names())) if self._models else ():
            self.problems.append(f"model {name!r}: the catalogue has one of this name; allowed: another name")
        for device in self.config.device:
            bus = self._connections.get(device.connection)
            if bus is None:
                known = ", ".join(self._connections)
                self._problem(device, f"connection {device.connection!r} is unknown; allowed: {known}")
            elif isinstance(bus, settings.Modbus):
                self._modbus_device(device, bus)
            else:
                self._opcua_device(device, bus)
        self._shared_registers()
        self._serial_lines()
        self._connections_per_device()

    def _problem(self, device: settings.Device, message: str, tag: str | None = None) -> None:
        place = f"device {device.name!r}" + (f".tag {tag!r}" if tag is not None else "")
        self.problems.append(f"{place}: {message}")

    def _distinct(self, what: str, names: list[str]) -> None:
        for name, count in sorted(Counter(names).items()):
            if count > 1:
                self.problems.append(f"{what} {name!r}: {count} have this name; allowed: one of each name")

    def _timing(self, device: settings.Device) -> Timing:
        interval_s = device.poll_interval_s or self.config.polling.poll_interval_s
        if device.phase_s >= interval_s:
            self._problem(device, f"phase_s {device.phase_s:g}; allowed: below poll_interval_s {interval_s:g}")
        return Timing(max(1, round(interval_s * US)), round(device.phase_s * US))

    # Modbus

    def _modbus_device(self, device: settings.Device, bus: settings.Modbus) -> None:
        before = len(self.problems)
        for key in ("mode", "sampling_interval_s"):
            if getattr(device, key) is not None:
                self._problem(device, f"{key} {getattr(device, key)!r}; allowed: on OPC-UA connections only")
        serial = not isinstance(bus, settings.ModbusTcp)
        allowed = "1 to 247 on a serial line" if serial else "0 to 255"
        if device.unit_id is None:
            self._problem(device, f"unit_id is missing; allowed: {allowed}")
        elif serial and not 1 <= device.unit_id <= _LAST_SERIAL_UNIT:
            self._problem(device, f"unit_id {device.unit_id}; allowed: {allowed}")
        if len(self.problems) > before or device.unit_id is None:
            return
        cost = bus.cost()
        # Only limits that are given replace the model's, so those given at their default differ from none.
        given = frozenset(device.limits.model_fields_set if device.limits is not None else ())
        alike = device.model_copy(update=_OWN), given, cost
        kind = self._kinds.get(alike) or self._kind(device, cost)
        if kind is None:
            return
        self._kinds[alike] = kind
        found = ModbusDevice(device.name, self._timing(device), device.unit_id, self._first, kind.layout)
        self.modbus.setdefault(bus.name, []).append(found)
        self._member(device, kind.sheet)

    def _kind(self, device: settings.Device, cost: Cost) -> _Kind | None:
        """Plan a device, and with it all that are configured like it."""
        before = len(self.problems)
        self._points = []
        model = self._model(device)
        tags = list(self._register_tags(device, model)) if len(self.problems) == before else []
        self._overlaps(device, tags)
        if len(self.problems) > before:
            return None
        if not tags:
            self._problem(device, "no tag; allowed: a model, or at least one [[device.tag]]")
            return None
        limits = model.limits if model else Limits()
        if device.limits is not None:
            limits = limits.model_copy(update=device.limits.model_dump(exclude_unset=True))
        cost = Cost(cost.round_trip_s + limits.pause_between_requests_ms / 1000, cost.bytes_per_s)
        places = tuple(_address(tag) for tag in tags), limits, cost
        try:
            planned = self._plans.get(places) or requests.plan(places[0], 0, limits, cost)
        except DecodePlanError as error:
            self._problem(device, str(error))
            return None
        self._plans[places] = planned
        return _Kind(Layout(limits, tuple(tags), planned), Sheet(self._points))

    def _member(self, device: settings.Device, sheet: Sheet) -> None:
        self.members.append(Member(device.name, device.serial, sheet))
        self._first += sheet.size

    def _model(self, device: settings.Device) -> RegisterMap | None:
        if device.model is None:
            if device.tags is not None:
                self._problem(device, "tags without model; allowed: with a model, else [[device.tag]]")
            return None
        if device.model in self._models:
            return self._models[device.model]
        try:
            return catalogue.model(device.model)
        except CatalogueError as error:
            own = "".join(f"{name}, " for name in self._models)
            self._problem(device, str(error).replace("; known: ", f"; allowed: {own}"))
            return None

    def _register_tags(self, device: settings.Device, model: RegisterMap | None) -> Iterator[RegisterTag]:
        own = {tag.name: tag for tag in device.tag}
        names = [tag.name for tag in device.tag]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self._problem(device, f"{names.count(name)} tags have this name; allowed: one of each name", name)
        fields = {field.name: field for field in model.fields} if model else {}
        selected = list(fields) if device.tags is None else list(device.tags)
        for name in selected:
            if name not in fields:
                self._problem(device, f"tags: {name!r} is not a field of {device.model}; allowed: {', '.join(fields)}")
            elif selected.count(name) > 1:
                self._problem(device, f"tags: {name!r} twice; allowed: once")
        wanted = [own.get(name) or settings.Tag(name=name) for name in selected if name in fields]
        wanted += [tag for tag in device.tag if tag.name not in selected]
        for tag in wanted:
            made = self._register_tag(device, model, fields, tag)
            if made is None:
                continue
            yield made
            raw = self._raw_tag(device, tag, made.field)
            if raw is not None:
                yield raw

    def _raw_tag(self, device: settings.Device, tag: settings.Tag, field: Register) -> RegisterTag | None:
        """Another tag that keeps the registers of a tag as they are, where that is wanted."""
        if field.table in ("coil", "discrete"):
            if tag.keep_raw:
                self._problem(device, f"keep_raw on a {field.table}; allowed: on registers only", tag.name)
            return None
        if not (device.keep_raw if tag.keep_raw is None else tag.keep_raw):
            return None
        name = f"{tag.name}{_RAW}"
        if any(own.name == name for own in device.tag):
            self._problem(device, f"keep_raw makes a tag of this name for {tag.name!r}; allowed: another name", name)
            return None
        kept = tag.model_copy(update={"name": name, "max_rate_per_h": None})
        text = {"quantity": "text", "unit": "1", "kind": "state", "value_type": "text"}
        address = f"{field.table} {field.address} hex {field.count}"
        point = self._point(device, kept, heartbeat_s=None, medium="none", address=address, **text)
        if point is None:
            return None
        made = Field(
            name=name,
            quantity="text",
            unit="1",
            kind="state",
            table=field.table,
            address=field.address,
            type="hex",
            length=field.count,
        )
        return RegisterTag(self._add(point), _register(made), "big", "big")

    def _register_tag(
        self, device: settings.Device, model: RegisterMap | None, fields: Mapping[str, Field], tag: settings.Tag
    ) -> RegisterTag | None:
        for key in ("node", "value_type"):
            if getattr(tag, key) is not None:
                self._problem(device, f"{key} {getattr(tag, key)!r}; allowed: on OPC-UA connections only", tag.name)
                return None
        if tag.field is not None and tag.field not in fields:
            known = ", ".join(fields) or "none, since the device has no model"
            self._problem(device, f"field {tag.field!r} is unknown; allowed: {known}", tag.name)
            return None
        base = fields.get(tag.field or tag.name)
        values: dict[str, Any] = base.model_dump() if base else {}
        values |= {key: getattr(tag, key) for key in _FIELD_KEYS if getattr(tag, key) is not None}
        if not self._complete(device, tag, _NEEDED_MODBUS, values):
            return None
        values["name"] = tag.name
        if tag.address is not None:
            values["address"] = tag.address - (device.address_base or 0)
            if values["address"] < 0:
                self._problem(device, f"address {tag.address}; allowed: from 1, since address_base is 1", tag.name)
                return None
        try:
            field = Field.model_validate(values)
        except ValidationError as error:
            self._invalid(device, tag.name, error)
            return None
        if not self._deadband_fits(device, tag, field.value_type):
            return None
        medium = tag.medium or device.medium or (model.medium if model else "none")
        by_exception = tag.deadband is not None or tag.deadband_percent is not None
        point = self._point(
            device,
            tag,
            heartbeat_s=self._silence_s(device, tag) if by_exception else None,
            quantity=field.quantity,
            unit=field.unit,
            kind=field.kind,
            medium=medium,
            value_type=field.value_type,
            scale=field.scale,
            offset=field.offset,
            modulus=field.modulus,
            accuracy_class=field.accuracy_class,
            deadband=tag.deadband,
            deadband_percent=tag.deadband_percent,
            address=f"{field.table} {field.address} {_form(field)}",
            model=device.model if base else None,
        )
        if point is None:
            return None
        word_order = field.word_order or device.word_order or (model.word_order if model else "big")
        byte_order = field.byte_order or device.byte_order or (model.byte_order if model else "big")
        return RegisterTag(self._add(point), _register(field), word_order, byte_order)

    def _overlaps(self, device: settings.Device, tags: list[RegisterTag]) -> None:
        def place(tag: RegisterTag) -> tuple[object, ...]:
            return tag.field.table, tag.field.address, tag.field.count, tag.field.type, tag.word_order, tag.byte_order

        # Kept registers are at the place of their tag; the planner refuses those that are not.
        ordered = sorted(
            [tag for tag in tags if tag.field.type != "hex"],
            key=lambda tag: (tag.field.table, tag.field.address, tag.field.count),
        )
        for one, other in pairwise(ordered):
            apart = one.field.table != other.field.table or _last(one) < other.field.address
            if not apart and place(one) != place(other):
                self._problem(
                    device,
                    f"{_span(other)} overlaps tag {one.field.name!r} at {_span(one)}; "
                    "allowed: the very same place and type, or no register in common",
                    other.field.name,
                )

    def _shared_registers(self) -> None:
        """Refuse a second device that reads what another one reads: most likely a unit id not edited."""
        for bus, devices in self.modbus.items():
            taken: dict[tuple[int, str, int], str] = {}
            units = Counter(device.unit_id for device in devices)
            for device in devices:
                if units[device.unit_id] == 1:
                    continue
                shared = self._shared(device, taken)
                if shared is not None:
                    tag, other = shared
                    self.problems.append(
                        f"device {device.name!r}.tag {tag.field.name!r}: {_span(tag)} of unit_id {device.unit_id} on "
                        f"connection {bus!r} is read by device {other!r} too; "
                        "allowed: another unit_id, or registers that no other device reads"
                    )

    def _connections_per_device(self) -> None:
        """Refuse more connections to one place than the devices there serve at the same time."""
        places: dict[tuple[str, int], list[str]] = {}
        for bus in self.config.connection:
            if isinstance(bus, settings.ModbusTcp | settings.ModbusRtuTcp) and bus.name in self.modbus:
                places.setdefault((bus.host, bus.port), []).append(bus.name)
        for (host, port), names in places.items():
            devices = [device for name in names for device in self.modbus[name]]
            least = min(devices, key=lambda device: device.limits.max_connections)
            if len(names) > least.limits.max_connections:
                self.problems.append(
                    f"connection {names[-1]!r}: {len(names)} connections lead to {host}:{port}; allowed: up to "
                    f"{least.limits.max_connections}, as limits.max_connections of device {least.name!r} says"
                )

    def _serial_lines(self) -> None:
        """Refuse a second connection on one port, and more requests than the wire can carry."""
        ports: dict[str, str] = {}
        for bus in self.config.connection:
            if not isinstance(bus, settings.ModbusRtu):
                continue
            other = ports.setdefault(os.path.normpath(bus.port), bus.name)
            if other != bus.name:
                self.problems.append(
                    f"connection {bus.name!r}.port {bus.port!r} is the port of connection {other!r} too; "
                    "allowed: one connection per port, with all its devices"
                )
            speed = self.config.clock.speed
            share = sum(
                bus.wire_s(requests.data_bytes(request.table, request.count)) * speed * US / device.timing.interval_us
                for device in self.modbus.get(bus.name, ())
                for request in device.requests
            )
            if share > 1:
                self.problems.append(
                    f"connection {bus.name!r}.baudrate {bus.baudrate}: the requests of its devices take "
                    f"{100 * share:.0f} % of the time on the wire; "
                    "allowed: up to 100 %, by longer poll_interval_s, fewer tags or a faster line"
                )

    @staticmethod
    def _shared(device: ModbusDevice, taken: dict[tuple[int, str, int], str]) -> tuple[RegisterTag, str] | None:
        found: tuple[RegisterTag, str] | None = None
        for tag in device.tags:
            for address in range(tag.field.address, _last(tag) + 1):
                other = taken.setdefault((device.unit_id, tag.field.table, address), device.name)
                if other != device.name and found is None:
                    found = tag, other
        return found

    # OPC-UA

    def _opcua_device(self, device: settings.Device, bus: settings.OpcUa) -> None:
        for key in ("unit_id", "model", "tags", "word_order", "byte_order", "address_base", "keep_raw", "limits"):
            if getattr(device, key) is not None:
                self._problem(device, f"{key}; allowed: on Modbus connections only")
        tags = []
        self._points = []
        seen: set[str] = set()
        for tag in device.tag:
            if tag.name in seen:
                self._problem(device, "another tag has this name; allowed: one of each name", tag.name)
            seen.add(tag.name)
            made = self._node_tag(device, tag, bus)
            if made is not None:
                tags.append(made)
        if not device.tag:
            self._problem(device, "no tag; allowed: at least one [[device.tag]]")
        subscribed = (device.mode or bus.mode) == "subscribe"
        found = OpcUaDevice(device.name, self._timing(device), tuple(tags), subscribed)
        self.opcua.setdefault(device.connection, []).append(found)
        self._member(device, Sheet(self._points))

    def _node_tag(self, device: settings.Device, tag: settings.Tag, bus: settings.OpcUa) -> NodeTag | None:
        for key in _MODBUS_KEYS:
            if getattr(tag, key) is not None:
                self._problem(device, f"{key} {getattr(tag, key)!r}; allowed: on Modbus connections only", tag.name)
                return None
        values = {key: getattr(tag, key) for key in _NEEDED_OPCUA if getattr(tag, key) is not None}
        if not self._complete(device, tag, _NEEDED_OPCUA, values) or tag.node is None:
            return None
        if not _NODE.fullmatch(tag.node):
            self._problem(device, f"node {tag.node!r}; allowed: a node id such as ns=2;s=Kiln.Feed or i=2258", tag.name)
            return None
        value_type = tag.value_type or "float"
        scale = 1.0 if tag.scale is None else tag.scale
        offset = 0.0 if tag.offset is None else tag.offset
        if value_type != "float" and (scale, offset) != (1.0, 0.0):
            self._problem(device, f"scale {scale:g}, offset {offset:g} on value_type {value_type!r}; allowed: float")
            return None
        if not self._deadband_fits(device, tag, value_type):
            return None
        subscribed = (device.mode or bus.mode) == "subscribe"
        point = self._point(
            device,
            tag,
            heartbeat_s=self._silence_s(device, tag),
            quantity=tag.quantity,
            unit=tag.unit,
            kind=tag.kind,
            medium=tag.medium or device.medium or "none",
            value_type=value_type,
            scale=scale,
            offset=offset,
            modulus=tag.modulus,
            accuracy_class=tag.accuracy_class,
            deadband=tag.deadband,
            # A subscription's is a share of the node's range, and the server's business.
            deadband_percent=None if subscribed else tag.deadband_percent,
            address=tag.node,
        )
        if point is None:
            return None
        return NodeTag(
            self._first + self._add(point),
            tag.node,
            value_type,
            scale,
            offset,
            sampling_s=device.sampling_interval_s or bus.sampling_interval_s or bus.publish_interval_s,
            deadband=(tag.deadband or 0.0) / abs(scale),
            deadband_percent=tag.deadband_percent or 0.0,
        )

    def _deadband_fits(self, device: settings.Device, tag: settings.Tag, value_type: ValueType) -> bool:
        given = [key for key in _DEADBANDS if getattr(tag, key) is not None]
        if not given:
            return True
        allowed = None
        if value_type not in ("float", "int"):
            allowed = "on value_type float or int"
        elif len(given) > 1:
            allowed = "one of them"
        if allowed is not None:
            found = ", ".join(f"{key} {getattr(tag, key):g}" for key in given)
            self._problem(device, f"{found}; allowed: {allowed}", tag.name)
        return allowed is None

    # Both

    def _complete(
        self, device: settings.Device, tag: settings.Tag, needed: tuple[str, ...], values: Mapping[str, Any]
    ) -> bool:
        missing = [key for key in needed if key not in values]
        if missing:
            hint = f" ({tag.name!r} is not a field of {device.model})" if device.model else ""
            self._problem(device, f"{', '.join(missing)} missing{hint}; needed: {', '.join(needed)}", tag.name)
        return not missing

    def _silence_s(self, device: settings.Device, tag: settings.Tag) -> float:
        """Heartbeat of a point that is reported by exception, where none is given."""
        poll_interval_s = device.poll_interval_s or self.config.polling.poll_interval_s
        return max(self._gap_limit_s(device, tag) / _HEARTBEATS_PER_GAP_LIMIT, poll_interval_s)

    def _gap_limit_s(self, device: settings.Device, tag: settings.Tag) -> float:
        return tag.gap_limit_s or device.gap_limit_s or self.config.polling.gap_limit_s

    def _point(
        self, device: settings.Device, tag: settings.Tag, *, heartbeat_s: float | None, **definition: Any
    ) -> Point | None:
        polling = self.config.polling
        poll_interval_s = device.poll_interval_s or polling.poll_interval_s
        gap_limit_s = self._gap_limit_s(device, tag)
        if poll_interval_s > gap_limit_s:
            self._problem(
                device,
                f"poll_interval_s {poll_interval_s:g} is longer than gap_limit_s {gap_limit_s:g}; "
                f"allowed: up to {gap_limit_s:g}",
                tag.name,
            )
            return None
        try:
            return Point(
                device=device.name,
                tag=tag.name,
                poll_interval_s=poll_interval_s,
                heartbeat_s=tag.heartbeat_s or device.heartbeat_s or polling.heartbeat_s or heartbeat_s,
                gap_limit_s=gap_limit_s,
                max_rate_per_h=tag.max_rate_per_h,
                serial=device.serial,
                **definition,
            )
        except ValidationError as error:
            self._invalid(device, tag.name, error)
            return None

    def _invalid(self, device: settings.Device, tag: str, error: ValidationError) -> None:
        for problem in error.errors(include_url=False):
            where = "".join(f"{step} {problem['input']!r:.80}: " for step in problem["loc"][-1:])
            self._problem(device, where + problem["msg"].removeprefix("Value error, "), tag)

    def _add(self, point: Point) -> int:
        self._points.append(point)
        return len(self._points) - 1


def _register(field: Field) -> Register:
    return Register(
        field.name,
        sys.intern(field.quantity),
        sys.intern(field.unit),
        field.table,
        field.address,
        field.count,
        field.type,
        field.part,
        field.scale,
        field.offset,
        field.is_raw,
        field.no_value,
        field.value_type,
    )


def _form(field: Field) -> str:
    return field.type if field.type not in ("bit", *TEXT_TYPES) else f"{field.type} {field.part}"


def _last(tag: RegisterTag) -> int:
    return tag.field.address + tag.field.count - 1


def _span(tag: RegisterTag) -> str:
    first, last = tag.field.address, _last(tag)
    return f"{tag.field.table} {first}" + (f" to {last}" if last > first else "")

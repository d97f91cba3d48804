"""Configurations and doubles for tests of the edge agent."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from edge_agent import points
from edge_agent.buffer.records import Draft
from edge_agent.points import Plan
from protocols.birth import AnySchema
from protocols.reading import Value

HEAD = """
[agent]
tenant = "acme"
name = "gw1"
site = "plant"
[buffer]
path = "{path}"
hold_unsynchronised_s = 0
[mqtt]
host = "127.0.0.1"
port = {mqtt_port}
version = {mqtt_version}
{mqtt}
[polling]
poll_interval_s = 1
gap_limit_s = 10
{polling}
"""


def head(
    path: object = "unused.sqlite", mqtt_port: int = 1883, mqtt_version: int = 5, mqtt: str = "", polling: str = ""
) -> str:
    """The part of agent.toml before connections and devices."""
    return HEAD.format(path=path, mqtt_port=mqtt_port, mqtt_version=mqtt_version, mqtt=mqtt, polling=polling)


def modbus(port: int, name: str = "bus", extra: str = "") -> str:
    """A Modbus connection on loopback."""
    return f'[[connection]]\nname = "{name}"\nprotocol = "modbus-tcp"\nhost = "127.0.0.1"\nport = {port}\n{extra}\n'


def serial(port: str, name: str = "bus", extra: str = "baudrate = 115_200") -> str:
    """A Modbus connection over a serial port."""
    return f'[[connection]]\nname = "{name}"\nprotocol = "modbus-rtu"\nport = "{port}"\n{extra}\n'


def serial_tcp(port: int, name: str = "bus", extra: str = "") -> str:
    """A connection on loopback that carries serial frames."""
    return f'[[connection]]\nname = "{name}"\nprotocol = "modbus-rtu-tcp"\nhost = "127.0.0.1"\nport = {port}\n{extra}\n'


def opcua(endpoint: str, name: str = "dcs", extra: str = "") -> str:
    """An OPC-UA connection."""
    return f'[[connection]]\nname = "{name}"\nprotocol = "opcua"\nendpoint = "{endpoint}"\n{extra}\n'


def device(name: str, *tags: str, connection: str = "bus", unit_id: int | None = 1, extra: str = "") -> str:
    """A device with tags of its own."""
    unit = "" if unit_id is None else f"unit_id = {unit_id}\n"
    return f'[[device]]\nname = "{name}"\nconnection = "{connection}"\n{unit}{extra}\n' + "".join(tags)


def register(name: str, address: int, type_: str = "uint16", table: str = "holding", extra: str = "") -> str:
    """A gauge in registers."""
    return (
        f'[[device.tag]]\nname = "{name}"\nquantity = "temperature"\nunit = "degC"\nkind = "gauge"\n'
        f'table = "{table}"\naddress = {address}\ntype = "{type_}"\n{extra}\n'
    )


def bit(name: str, address: int, table: str = "coil") -> str:
    """A state in a coil or discrete input."""
    return (
        f'[[device.tag]]\nname = "{name}"\nquantity = "running"\nunit = "1"\nkind = "state"\n'
        f'table = "{table}"\naddress = {address}\ntype = "bool"\n'
    )


def node(name: str, node_id: str, value_type: str = "float", extra: str = "") -> str:
    """A value of an OPC-UA server."""
    quantity, unit, kind = (
        ("temperature", "degC", "gauge") if value_type in ("float", "int") else ("state", "1", "state")
    )
    if value_type == "text":
        quantity = "text"
    return (
        f'[[device.tag]]\nname = "{name}"\nquantity = "{quantity}"\nunit = "{unit}"\nkind = "{kind}"\n'
        f'node = "{node_id}"\nvalue_type = "{value_type}"\n{extra}\n'
    )


def plan(*parts: str) -> Plan:
    """Check a configuration."""
    return points.load("\n".join(parts), "agent.toml", {})


@dataclass(frozen=True)
class Seen:
    """One reading that reached the buffer."""

    name: str
    at_us: int
    value: Value
    quality: int


def seen(schema: AnySchema, draft: Draft) -> Iterable[Seen]:
    """The readings of a draft, in order within each value type."""
    for group in draft.columns.values():
        for point, offset, value, quality in zip(
            group.points, group.offsets_us, group.values, group.qualities, strict=True
        ):
            found = schema.points[point]
            yield Seen(f"{found.device}/{found.tag}", draft.base_us + offset, value, quality)


class Catcher:
    """Takes drafts in place of a buffer."""

    def __init__(self, schema: AnySchema) -> None:
        self.schema = schema
        self.drafts: list[Draft] = []

    def write(self, draft: Draft) -> Future[None]:
        """Take a draft."""
        self.drafts.append(draft)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def take(self) -> list[Seen]:
        """The readings taken since the last call."""
        found = [reading for draft in self.drafts for reading in seen(self.schema, draft)]
        self.drafts.clear()
        return found

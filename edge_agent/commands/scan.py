"""`scan`: what is on a Modbus connection or behind an OPC-UA server, before there is a configuration for it.

Promises

- Nothing is written to a device or server, and no buffer is made or opened.
- The result comes as a whole, at the end; progress and problems are told meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from edge_agent import points
from edge_agent.config import Modbus, ModbusRtu, ModbusTcp, OpcUa
from edge_agent.scanning import bus, bus_output, connections
from edge_agent.scanning.bus import BusOptions
from edge_agent.scanning.errors import ScanError, ScanUsageError
from protocols import logs
from protocols.config import ConfigError
from protocols.meters import catalogue
from protocols.modbus.limits import TableName
from protocols.quantities import Medium

Tell = Callable[[str], None]

_TCP_TIMEOUT_S = 0.5
_SERIAL_TIMEOUT_S = 0.3
_SERIAL_UNITS = "1-247"
_TCP_UNITS = "1-247,255"
_BESIDE = """
[agent]
tenant = "t"
name = "a"
site = "s"
[buffer]
path = "b.sqlite"
[mqtt]
host = "h"
"""


@dataclass(frozen=True, slots=True)
class Scan:
    """What to print, and the exit code."""

    text: str
    code: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `scan` takes."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="kind")
    _add_modbus(kinds.add_parser("modbus", help="find unit ids, readable registers and meter models; only reads"))
    _add_opcua(kinds.add_parser("opcua", help="browse a server and read its variables; only reads"))


def run(options: argparse.Namespace, tell: Tell) -> Scan:
    """Scan; problems are told, and give exit code 1 or, if it is the usage that is wrong, 2."""
    logs.configure("error", "text")
    try:
        return _modbus(options, tell) if options.kind == "modbus" else _opcua(options, tell)
    except (ScanUsageError, ConfigError) as error:
        tell(str(error))
        return Scan("", 2)
    except ScanError as error:
        tell(str(error))
        return Scan("", 1)
    except KeyboardInterrupt:
        tell("interrupted")
        return Scan("", 1)


def _add_modbus(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tcp", metavar="HOST[:PORT]", help="Modbus TCP, by default on port 502")
    where.add_argument("--rtu-tcp", metavar="HOST:PORT", help="serial frames over TCP")
    where.add_argument("--serial", metavar="PORT", help="serial port such as /dev/ttyUSB0, which no one else may use")
    _add_config(parser, where)
    parser.add_argument("--baudrate", type=int, default=9600, help="of a serial port")
    parser.add_argument("--parity", choices=("N", "E", "O"), default="N", help="of a serial port")
    parser.add_argument("--stopbits", type=int, choices=(1, 2), default=1, help="of a serial port")
    parser.add_argument(
        "--units", metavar="IDS", help=f"such as 1-10,20 ({_TCP_UNITS}; serial frames: {_SERIAL_UNITS})"
    )
    parser.add_argument(
        "--table", nargs="+", choices=get_args(TableName), default=["holding", "input"], help="tables to search"
    )
    parser.add_argument("--registers", metavar="FROM-TO", default="0-9999", help="addresses, counted from 0")
    parser.add_argument(
        "--timeout-s", type=_positive, help=f"for an answer ({_TCP_TIMEOUT_S}; serial {_SERIAL_TIMEOUT_S})"
    )
    parser.add_argument("--pause-ms", type=_not_negative, default=20.0, help="from an answer to the next request")
    parser.add_argument("--max-requests", type=_count, metavar="N", default=5000, help="of the whole scan")
    parser.add_argument(
        "--models", action=argparse.BooleanOptionalAction, default=True, help="try the models of the meter catalogue"
    )
    parser.add_argument(
        "--identify", action=argparse.BooleanOptionalAction, default=True, help="ask units what they are (function 43)"
    )
    _add_output(parser)


def _add_opcua(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("endpoint", nargs="?", help="such as opc.tcp://host:4840; with security or a user, see --config")
    _add_config(parser, where)
    parser.add_argument(
        "--select",
        action="append",
        metavar="PATTERN",
        default=[],
        help="only paths such as Plant/*/Mill/**: '*' is any part of a name, '**' any number of names",
    )
    parser.add_argument("--from", dest="start", metavar="NODE", default="i=85", help="node to begin at (Objects, i=85)")
    parser.add_argument("--max-nodes", type=_count, metavar="N", default=10_000, help="most nodes to visit")
    parser.add_argument("--medium", choices=get_args(Medium), help="of what is measured, for --agent-toml")
    _add_output(parser)


def _add_config(parser: argparse.ArgumentParser, where: Any) -> None:
    where.add_argument("--config", type=Path, metavar="FILE", help="take a connection of this agent.toml instead")
    parser.add_argument("--connection", metavar="NAME", help="which, if there are several")


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print the result for machines")
    output.add_argument("--agent-toml", action="store_true", help="print it as a part of agent.toml")


def _modbus(options: argparse.Namespace, tell: Tell) -> Scan:
    settings = _bus(options)
    how = _bus_options(options, settings)
    _check_port(settings)
    found = asyncio.run(bus.scan(settings, how, tell))
    code = 0 if found.answering else 1
    if options.json:
        return Scan(bus_output.json(found), code)
    if options.agent_toml:
        for note in found.notes:
            tell(note)
        return Scan(_checked(*bus_output.agent_toml(found), tell), code)
    return Scan(bus_output.text(found), code)


def _opcua(options: argparse.Namespace, tell: Tell) -> Scan:
    # Imported only where it is used: it takes a second and tens of megabytes.
    from edge_agent.scanning import explore, space_output
    from edge_agent.scanning.paths import Pattern

    settings = _server(options)
    patterns = [Pattern(text) for text in options.select]
    found = asyncio.run(explore.scan(settings, options.start, options.max_nodes, tell))
    selected = space_output.select(found, patterns)
    for problem in selected.problems:
        tell(problem)
    code = 0 if selected.variables and not selected.problems else 1
    if options.json:
        return Scan(space_output.json(found, selected), code)
    if options.agent_toml:
        for note in found.notes:
            tell(note)
        return Scan(_checked(*space_output.agent_toml(found, selected, options.medium), tell), code)
    return Scan(space_output.text(found, selected), code)


def _checked(fragment: str, problems: Sequence[str], tell: Tell) -> str:
    """Tell what is left out of a fragment, and what `check-config` will say of it."""
    for problem in problems:
        tell(problem)
    if "\n[[device]]\n" in fragment:
        try:
            points.load(_BESIDE + fragment, "agent.toml", os.environ)
        except ConfigError as error:
            tell(str(error))
    return fragment


def _bus(options: argparse.Namespace) -> Modbus:
    if options.tcp is not None:
        return connections.modbus_tcp(options.tcp)
    if options.rtu_tcp is not None:
        return connections.modbus_rtu_tcp(options.rtu_tcp)
    if options.serial is not None:
        return connections.modbus_rtu(options.serial, options.baudrate, options.parity, options.stopbits)
    found = connections.configured(options.config, options.connection)
    if isinstance(found, OpcUa):
        raise ScanUsageError(f"connection {found.name!r} is OPC-UA; allowed: a Modbus connection, or scan opcua")
    return found


def _check_port(settings: Modbus) -> None:
    """Say why a serial port cannot be opened; the client only says that it cannot."""
    if not isinstance(settings, ModbusRtu):
        return
    if not Path(settings.port).exists():
        raise ScanError(f"cannot connect to {settings.where}: there is no {settings.port}")
    if not os.access(settings.port, os.R_OK | os.W_OK):
        raise ScanError(f"cannot connect to {settings.where}: no permission; allowed: the port's owner and group")


def _server(options: argparse.Namespace) -> OpcUa:
    if options.endpoint is not None:
        return connections.opcua(options.endpoint)
    found = connections.configured(options.config, options.connection)
    if not isinstance(found, OpcUa):
        raise ScanUsageError(f"connection {found.name!r} is Modbus; allowed: an OPC-UA connection, or scan modbus")
    return found


def _bus_options(options: argparse.Namespace, settings: Modbus) -> BusOptions:
    unit_ids = options.units or (_TCP_UNITS if isinstance(settings, ModbusTcp) else _SERIAL_UNITS)
    return BusOptions(
        unit_ids=connections.unit_ids(unit_ids, settings),
        tables=list(dict.fromkeys(options.table)),
        span=connections.span(options.registers),
        timeout_s=options.timeout_s or (_SERIAL_TIMEOUT_S if isinstance(settings, ModbusRtu) else _TCP_TIMEOUT_S),
        pause_s=options.pause_ms / 1000,
        max_requests=options.max_requests,
        models=[catalogue.model(name) for name in catalogue.names()] if options.models else (),
        identify=options.identify,
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 60:
        raise argparse.ArgumentTypeError(f"{text}; allowed: above 0, up to 60")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 60_000:
        raise argparse.ArgumentTypeError(f"{text}; allowed: 0 to 60000")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}; allowed: from 1")
    return value

"""Which connection is to be scanned, and what on it: told on the command line or by a configuration."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.config import Connection, Modbus, ModbusRtu, ModbusRtuTcp, ModbusTcp, OpcUa
from edge_agent.scanning.errors import ScanUsageError
from protocols import config as documents

_BUS = "bus"
_SERVER = "server"
_TCP_PORT = 502
_LAST_UNIT = 255
_LAST_SERIAL_UNIT = 247
_LAST_ENTRY = 65_535
_PLACE = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?")
_RANGE = re.compile(r"\s*([0-9]{1,5})(?:-([0-9]{1,5}))?\s*")

_M = TypeVar("_M", bound=BaseModel)


class _Connections(BaseModel):
    """The connections of a configuration, which may be incomplete otherwise."""

    model_config = ConfigDict(extra="ignore")

    connection: tuple[Connection, ...]


def modbus_tcp(text: str) -> ModbusTcp:
    """A connection to ``host``, ``host:port`` or ``[address]:port``."""
    host, port = _place(text, "--tcp", needs_port=False)
    return _validated(ModbusTcp, "--tcp", protocol="modbus-tcp", name=_BUS, host=host, port=port or _TCP_PORT)


def modbus_rtu_tcp(text: str) -> ModbusRtuTcp:
    """A connection to ``host:port`` or ``[address]:port``."""
    host, port = _place(text, "--rtu-tcp", needs_port=True)
    return _validated(ModbusRtuTcp, "--rtu-tcp", protocol="modbus-rtu-tcp", name=_BUS, host=host, port=port)


def modbus_rtu(port: str, baudrate: int, parity: str, stopbits: int) -> ModbusRtu:
    """A serial port."""
    line = {"baudrate": baudrate, "parity": parity, "stopbits": stopbits}
    return _validated(ModbusRtu, "--serial", protocol="modbus-rtu", name=_BUS, port=port, **line)


def opcua(endpoint: str) -> OpcUa:
    """A server without security."""
    return _validated(OpcUa, "endpoint", protocol="opcua", name=_SERVER, endpoint=endpoint)


def configured(file: Path, name: str | None) -> Modbus | OpcUa:
    """A connection of a configuration; the only one, if no name is given.

    Raises
    ------
    ScanUsageError, ConfigError
        If there is none, or it is wrong.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScanUsageError(f"{file}: {error}") from error
    connections = documents.parse(text, _Connections, file.name, os.environ).connection
    chosen = [found for found in connections if name in (None, found.name)]
    if len(chosen) != 1:
        known = ", ".join(found.name for found in connections)
        raise ScanUsageError(f"--connection {'is missing' if name is None else repr(name)}; allowed: {known}")
    return chosen[0]


def unit_ids(text: str, settings: Modbus) -> list[int]:
    """Unit ids such as ``1-10,20``, each once, in this order."""
    least, most = (0, _LAST_UNIT) if isinstance(settings, ModbusTcp) else (1, _LAST_SERIAL_UNIT)
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not least <= first <= last <= most:
            raise ScanUsageError(f"--units {text!r}; allowed: {least} to {most}, such as 1-10,20")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def span(text: str) -> tuple[int, int]:
    """Addresses such as ``0-9999``."""
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last <= _LAST_ENTRY:
        raise ScanUsageError(f"--registers {text!r}; allowed: within 0-{_LAST_ENTRY}, such as 0-9999")
    return first, last


def _place(text: str, what: str, *, needs_port: bool) -> tuple[str, int | None]:
    match = _PLACE.fullmatch(text)
    if match is None or (match[3] is None and needs_port):
        allowed = "host:port or [address]:port" if needs_port else "host, host:port or [address]:port"
        raise ScanUsageError(f"{what} {text!r}; allowed: {allowed}")
    return match[1] or match[2], int(match[3]) if match[3] else None


def _validated(model: type[_M], what: str, **given: Any) -> _M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise ScanUsageError(f"{what}: {'; '.join(documents.problems(error, given))}") from error

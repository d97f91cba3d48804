"""A device as Modbus sees it: request in, answer out, at a moment of the plant."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Sequence
from typing import get_args

from device_sims.errors import PlantTimeError
from device_sims.faults import EFFECTS, Fault
from device_sims.modbus.registers import Cell, Reader, Table
from device_sims.plant.plant import Moment
from device_sims.signals import Signals
from protocols.meters.schema import Limits, TableName

log = logging.getLogger(__name__)

ILLEGAL_FUNCTION = 1
ILLEGAL_ADDRESS = 2
ILLEGAL_VALUE = 3
DEVICE_FAILURE = 4
NO_ANSWER_FROM_TARGET = 0x0B

_TABLES: dict[int, TableName] = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}
_REQUEST = struct.Struct(">BHH")
_MOST_RANGES = 1024
"""Compiled ranges a device keeps; a client that asks for more makes it start over."""


def exception(function: int, code: int) -> bytes:
    """An exception answer."""
    return bytes((function | 0x80, code))


class ModbusDevice:
    """One device behind a gateway.

    Parameters
    ----------
    name
        For the log.
    cells
        Its fields.
    limits
        What it takes; more is refused with exception 3.
    refuse_holes
        See `Table`.
    fault
        What goes wrong, and when.
    signals
        Where it counts.
    """

    def __init__(
        self,
        name: str,
        cells: Sequence[Cell],
        limits: Limits,
        *,
        refuse_holes: bool,
        fault: Fault | None,
        signals: Signals,
    ) -> None:
        self.name = name
        self._limits = limits
        self._signals = signals
        self._tables = {
            table: Table(
                table,
                [cell for cell in cells if cell.field.table == table],
                refuse_holes=refuse_holes,
                exact=limits.one_field_per_request,
            )
            for table in get_args(TableName)
        }
        self._ranges: dict[bytes, Reader | bytes] = {}
        self._fault = fault.span_us() if fault else None
        self._effect = EFFECTS[fault.kind] if fault else None
        self._complained = False

    def answer(self, request: bytes, now: Callable[[], Moment]) -> bytes | None:
        """Answer a request (function code and data); None: stay silent."""
        known = self._ranges.get(request)
        if known is None:
            known = self._compile(request)
            if len(self._ranges) >= _MOST_RANGES:
                self._ranges.clear()
            self._ranges[request] = known
        try:
            moment = now()
            if isinstance(known, bytes):
                answer = known
                self._signals.exceptions += 1
            else:
                data = known(moment)
                answer = bytes((request[0], len(data))) + data
        except (struct.error, OverflowError, PlantTimeError) as error:
            self._signals.unencodable += 1
            if not self._complained:
                self._complained = True
                log.warning("device %s: answers with exception 4, a value can't be served: %s", self.name, error)
            return exception(request[0], DEVICE_FAILURE)
        if self._effect is not None and self._fault is not None:
            first, last = self._fault
            if first <= moment.at_us < last:
                return self._effect(answer)
        return answer

    def _compile(self, request: bytes) -> Reader | bytes:
        function = request[0]
        table = _TABLES.get(function)
        if table is None:
            return exception(function, ILLEGAL_FUNCTION)
        if len(request) != _REQUEST.size:
            return exception(function, ILLEGAL_VALUE)
        _, address, count = _REQUEST.unpack(request)
        if not 1 <= count <= self._limits.most(table):
            return exception(function, ILLEGAL_VALUE)
        return self._tables[table].reader(address, count) or exception(function, ILLEGAL_ADDRESS)

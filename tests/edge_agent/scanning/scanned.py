"""Modbus units for scans: tables with holes, limits and an identification, on a TCP connection or a serial line."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from protocols import quantities
from protocols.meters import catalogue
from protocols.modbus import words
from tests.support.modbus_responder import Asked, Reply, Responder
from tests.support.serial_lines import Asked as SerialAsked
from tests.support.serial_lines import Line, PtyLine, SerialUnits, crc

TABLES = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}
IDENTIFY = 0x2B
_LARGEST = {1: 30_000, 2: 2_000_000_000, 4: 10**15}
"""Whole numbers that fit, by the registers they take."""
PLAUSIBLE = {
    "frequency": 50.02,
    "voltage": 231.5,
    "current": 12.25,
    "power_factor": 0.95,
    "temperature": 21.5,
    "pressure": 600.0,
}
"""Values in the canonical unit; of all other quantities 1234."""


@dataclass
class Unit:
    """A device: entries by table and address; what is not there is refused, and so is what is too long."""

    tables: dict[str, dict[int, int]] = field(default_factory=dict)
    most: int = 125
    identification: Mapping[int, str] = field(default_factory=dict)
    silent_where_refused: bool = False

    def pdu(self, asked: Asked | SerialAsked) -> bytes | None:
        """Answer to a read."""
        table = self.tables.get(TABLES[asked.function])
        if table is None:
            return self._refusal(asked, 1)
        if asked.count > (self.most if asked.function > 2 else 2000):
            return self._refusal(asked, 3)
        found = [table.get(asked.address + n) for n in range(asked.count)]
        entries = [entry for entry in found if entry is not None]
        if len(entries) < asked.count:
            return self._refusal(asked, 2)
        if asked.function > 2:
            return struct.pack(f">BB{asked.count}H", asked.function, 2 * asked.count, *entries)
        bits = words.encode_bits([bool(entry) for entry in entries])
        return bytes([asked.function, len(bits)]) + bits

    def _refusal(self, asked: Asked | SerialAsked, code: int) -> bytes | None:
        return None if self.silent_where_refused else bytes([asked.function | 0x80, code])

    def identify(self, category: int, first: int, room: int = 240) -> bytes:
        """Answer to function 43, type 14; what does not fit is for the next request."""
        last = 2 if category == 1 else 6
        objects = {number: text for number, text in self.identification.items() if first <= number <= last}
        if not objects:
            return bytes([IDENTIFY | 0x80, 1])
        sent = b""
        count = 0
        more = 0
        for number, text in objects.items():
            part = bytes([number, len(text)]) + text.encode()
            if len(sent + part) > room:
                more = number
                break
            sent += part
            count += 1
        return bytes([IDENTIFY, 0x0E, category, 0x82, 0xFF if more else 0, more, count]) + sent


def holding(*spans: tuple[int, int]) -> Unit:
    """A unit with holding registers that hold their own address."""
    return Unit({"holding": {address: address for span in spans for address in range(span[0], span[1] + 1)}})


def meter(model_name: str, values: Mapping[str, float | None] | None = None) -> Unit:
    """A unit with the registers of a model and nothing else; values by field name, None where it has none."""
    model = catalogue.model(model_name)
    tables: dict[str, dict[int, int]] = {}
    for one in model.fields:
        unit = _unit_of(one.quantity, one.unit)
        value: float | None = (PLAUSIBLE.get(one.quantity, 1234.0) - unit[1]) / unit[0]
        if values is not None and one.name in values:
            value = values[one.name]
        if value is None:
            assert one.no_value is not None
            raw: float = one.no_value
        else:
            raw = (value - one.offset) / one.scale
            raw = raw if one.type.startswith("float") else min(round(raw), _LARGEST[one.count])
        data = words.encode(one.type, raw, *model.orders(one))
        table = tables.setdefault(one.table, {})
        for n, (word,) in enumerate(struct.iter_unpack(">H", data)):
            table[one.address + n] = word
    return Unit(tables)


def _unit_of(quantity: str, symbol: str) -> tuple[float, float]:
    """Factor and offset of a unit."""
    found = quantities.unit(quantity, symbol)
    return found.factor, found.offset


Handler = Callable[[Asked], Reply]


class Bus(Responder):
    """Units on a TCP connection; who is not there is silent. `odd` may answer otherwise: None leaves it to the unit."""

    def __init__(self, units: Mapping[int, Unit], odd: Handler | None = None) -> None:
        super().__init__(self._answer)
        self.units = units
        self.functions: list[int] = []
        self._odd = odd

    def _answer(self, asked: Asked) -> Reply:
        if self._odd is not None:
            reply = self._odd(asked)
            if reply is not None:
                return reply
        unit = self.units.get(asked.unit)
        pdu = None if unit is None else unit.pdu(asked)
        return None if pdu is None else asked.frame(pdu)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                header = await reader.readexactly(7)
                transaction, _, length, unit = struct.unpack(">HHHB", header)
                pdu = await reader.readexactly(length - 1)
                self.functions.append(pdu[0])
                if pdu[0] == IDENTIFY:
                    if unit in self.units:
                        asked = Asked(transaction, unit, IDENTIFY, 0, 0)
                        writer.write(asked.frame(self.units[unit].identify(pdu[2], pdu[3])))
                    continue
                asked = Asked(transaction, unit, *struct.unpack(">BHH", pdu))
                self.asked.append(asked)
                reply = self.handler(asked)
                for part in reply if isinstance(reply, list | tuple) else (reply,):
                    self._send(writer, part)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


class SerialBus(SerialUnits):
    """Units of a serial line that know function 43 too."""

    def __init__(self, units: Mapping[int, Unit], odd: Callable[[SerialAsked], Reply] | None = None) -> None:
        super().__init__(self._answer)
        self.by_id = units
        self._odd = odd

    def _answer(self, asked: SerialAsked) -> Reply:
        reply = self._odd(asked) if self._odd is not None else None
        if reply is not None:
            return reply
        unit = self.by_id.get(asked.unit)
        pdu = None if unit is None else unit.pdu(asked)
        return None if pdu is None else asked.frame(pdu)

    def receive(self, data: bytes, line: Line) -> None:
        """Take what came over the line, and answer."""
        data = self._received + data
        if len(data) >= 7 and data[1] == IDENTIFY:
            self._received = data[7:]
            unit = self.by_id.get(data[0])
            if unit is not None:
                body = bytes([data[0]]) + unit.identify(data[3], data[4], room=60)
                line.write(body + crc(body))
            return
        self._received = b""
        super().receive(data, line)


def serial_port(units: Mapping[int, Unit], odd: Callable[[SerialAsked], Reply] | None = None) -> PtyLine:
    """A serial port with units behind it."""
    port = PtyLine(SerialAsked.counting)
    port.units = SerialBus(units, odd)
    return port

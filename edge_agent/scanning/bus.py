"""The scan of a Modbus connection: who is there, what each one is, and which registers it has."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_agent.config import Modbus
from edge_agent.scanning import identity, models, ranges, units
from edge_agent.scanning.errors import OutOfRequestsError, ScanError
from edge_agent.scanning.line import Line
from edge_agent.scanning.models import Candidate
from edge_agent.scanning.ranges import Span, TableRanges
from edge_agent.scanning.units import Sighting, Tell
from protocols.meters.schema import MeterModel
from protocols.modbus.limits import TableName


@dataclass(frozen=True, slots=True)
class BusOptions:
    """How a bus is scanned.

    Attributes
    ----------
    unit_ids
        Which are asked, in this order.
    tables
        Searched for readable ranges; the first ones are those by which units are found.
    span
        First and last entry of a table.
    timeout_s, pause_s
        How long an answer is waited for, and from an answer to the next request [s].
    max_requests
        Of the whole scan.
    models
        Those that are tried on each unit.
    identify
        Whether units are asked what they are.
    """

    unit_ids: Sequence[int]
    tables: Sequence[TableName] = ("holding", "input")
    span: Span = (0, 9999)
    timeout_s: float = 0.5
    pause_s: float = 0.02
    max_requests: int = 5000
    models: Sequence[MeterModel] = ()
    identify: bool = True


@dataclass(slots=True)
class UnitScan:
    """What is known of a unit; `tried` says whether models of the catalogue were."""

    sighting: Sighting
    identification: dict[str, str] = field(default_factory=dict)
    tried: bool = False
    candidates: list[Candidate] = field(default_factory=list)
    tables: list[TableRanges] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class BusScan:
    """What is known of a bus.

    Attributes
    ----------
    settings
        The connection, as it was given.
    asked, answering
        How many unit ids were asked, and how many answer.
    requests, took_s
        What the scan cost.
    units
        Those that answer; of a device that answers to every unit id, the first.
    timeout_s
        How long answers were waited for in the end [s]; longer than at first if some came late.
    notes
        What else is to be said.
    """

    settings: Modbus
    asked: int = 0
    answering: int = 0
    requests: int = 0
    took_s: float = 0.0
    units: list[UnitScan] = field(default_factory=list)
    timeout_s: float = 0.0
    notes: list[str] = field(default_factory=list)


async def scan(settings: Modbus, options: BusOptions, tell: Tell) -> BusScan:
    """Scan a bus.

    Raises
    ------
    ScanError
        If there is no connection at all.
    """
    started = time.monotonic()
    found = BusScan(settings)
    line = Line(settings.model_copy(update={"timeout_s": options.timeout_s}), options.pause_s, options.max_requests)
    try:
        await line.open()
        try:
            await _all(line, options, found, tell)
        except ScanError as error:
            found.notes.append(f"the scan ended early: {error}")
    finally:
        await line.close()
    found.requests, found.timeout_s = line.asked, line.timeout_s
    found.took_s = time.monotonic() - started
    return found


async def _all(line: Line, options: BusOptions, found: BusScan, tell: Tell) -> None:
    seen = await units.find(line, options.unit_ids, options.tables, options.span[0], tell)
    found.asked, found.answering = seen.asked, len(seen.found)
    found.notes += seen.notes
    sightings = [seen.found[unit_id] for unit_id in options.unit_ids if unit_id in seen.found]
    if seen.indifferent:
        found.notes.append(
            f"all {seen.asked} unit ids answer: most likely one device that does not look at them; "
            f"only unit {sightings[0].unit_id} was looked into"
        )
        sightings = sightings[:1]
    found.units += [UnitScan(sighting) for sighting in sightings]
    for number, unit in enumerate(found.units):
        await _one(line, options, unit, line.left // (len(found.units) - number), tell)


async def _one(line: Line, options: BusOptions, unit: UnitScan, share: int, tell: Tell) -> None:
    """Look into one unit by its share of the requests."""
    unit_id, first = unit.sighting.unit_id, options.span[0]
    end = line.asked + share
    tables = []
    try:
        if options.identify:
            unit.identification = await identity.ask(line, unit_id)
        if unit.identification:
            tell(f"unit {unit_id} says it is {', '.join(unit.identification.values())}")
        for table in options.tables:
            if await ranges.lacks(line, unit.sighting, table, first):
                unit.notes.append(f"it has no {table} table")
            else:
                tables.append(table)
    except OutOfRequestsError as error:
        unit.notes.append(str(error))
        return
    known: dict[TableName, list[Span]] = {}
    if options.models:
        tell(f"unit {unit_id}: trying the models of the catalogue")
        trial = await models.attempt(line, unit_id, options.models, unit.identification, end - line.asked)
        unit.tried, unit.candidates, known = True, trial.candidates, trial.readable
        if trial.stopped:
            unit.notes.append(f"not all models were tried: {trial.stopped}")
    for number, table in enumerate(tables):
        tell(f"unit {unit_id}: searching {table} {first} to {options.span[1]}")
        limit = max(0, end - line.asked) // (len(tables) - number)
        unit.tables.append(await ranges.search(line, unit.sighting, table, options.span, known.get(table, ()), limit))

"""What a scan of a Modbus connection found: for people, for machines, and as configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from edge_agent.config import Modbus
from edge_agent.scanning import toml
from edge_agent.scanning.bus import BusScan, UnitScan
from edge_agent.scanning.models import Candidate
from edge_agent.scanning.ranges import TableRanges


def text(found: BusScan) -> str:
    """A table for people."""
    return "\n".join(_lines(found)) + "\n"


def json(found: BusScan) -> str:
    """A document for machines."""
    document = {
        "connection": found.settings.model_dump(mode="json"),
        "unit_ids_asked": found.asked,
        "unit_ids_answering": found.answering,
        "requests": found.requests,
        "took_s": round(found.took_s, 3),
        "units": [_document(unit) for unit in found.units],
        "notes": found.notes,
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


def agent_toml(found: BusScan) -> tuple[str, list[str]]:
    """A fragment of `agent.toml`, and what had to be left out of it."""
    settings, problems = found.settings, []
    if found.timeout_s > settings.timeout_s:
        settings = settings.model_copy(update={"timeout_s": round(found.timeout_s, 1)})
    lines = [toml.HEAD, *toml.connection(settings)]
    for unit in found.units:
        device, problem = _device(unit, settings)
        lines += ["", *device]
        if problem:
            problems.append(f"unit {unit.sighting.unit_id}: {problem}")
    return "\n".join(lines) + "\n", problems


def _lines(found: BusScan) -> Iterator[str]:
    yield (
        f"{found.answering} of {found.asked} unit ids answer on {found.settings.where} "
        f"({found.requests} requests, {found.took_s:.1f} s)"
    )
    yield from (f"note: {note}" for note in found.notes)
    for unit in found.units:
        yield ""
        yield f"unit {unit.sighting.unit_id}: {unit.sighting.text}"
        if unit.identification:
            yield "  says it is: " + ", ".join(f"{key} {value!r}" for key, value in unit.identification.items())
        yield from (f"  {_ranges(table)}" for table in unit.tables)
        yield from (f"  note: {note}" for note in unit.notes)
        for candidate in unit.candidates:
            yield f"  {_claim(candidate)}"
            yield from (f"    {value.text}" for value in candidate.values)
        if unit.tried and not unit.candidates:
            yield "  fits no model of the catalogue"


def _ranges(table: TableRanges) -> str:
    found = ", ".join(f"{first} to {last}" if last > first else f"{first}" for first, last in table.readable)
    details = list(table.notes)
    if table.max_entries is not None:
        details.append(f"at most {table.max_entries} at once")
    if table.missed:
        details.append(f"runs of up to {table.missed} may have been missed")
    return f"{table.table}: {found or 'nothing readable'}" + (f" ({'; '.join(details)})" if details else "")


def _claim(candidate: Candidate) -> str:
    model = candidate.model
    named = f"; its identification names the {' and the '.join(candidate.named)}" if candidate.named else ""
    return (
        f"could be {model.name} ({model.maker} {model.model}): all {len(candidate.values)} fields are readable and "
        f"plausible, {candidate.telling} of them not zero{named}"
    )


def _document(unit: UnitScan) -> dict[str, Any]:
    return {
        "unit_id": unit.sighting.unit_id,
        "answered": unit.sighting.text,
        "identification": unit.identification,
        "tables": [
            {
                "table": table.table,
                "readable": [{"first": first, "last": last} for first, last in table.readable],
                "max_entries": table.max_entries,
                "missed_up_to": table.missed,
                "notes": table.notes,
            }
            for table in unit.tables
        ],
        "could_be": [
            {
                "model": candidate.model.name,
                "fields": len(candidate.values),
                "not_zero": candidate.telling,
                "named": candidate.named,
                "values": {
                    found.field.name: {"value": found.value, "unit": found.field.unit} for found in candidate.values
                },
            }
            for candidate in unit.candidates
        ],
        "notes": unit.notes,
    }


def _device(unit: UnitScan, settings: Modbus) -> tuple[list[str], str]:
    """Lines of a device, and why they are comments if they are."""
    unit_id = unit.sighting.unit_id
    device = {"name": f"unit_{unit_id}", "connection": settings.name, "unit_id": unit_id}
    lines = ["[[device]]", *toml.keys(device)]
    notes = [toml.comment(f"readable: {_ranges(table)}") for table in unit.tables]
    if not unit.candidates:
        fits = "fits no model of the catalogue" if unit.tried else "was tried on no model"
        problem = f"{fits}; make a register list of it, and use `edge-agent import`"
        return [*notes, toml.comment(problem), *toml.commented(lines)], problem
    likeliest, *others = unit.candidates
    notes += [toml.comment(f"{_claim(candidate)}; compare it with the nameplate") for candidate in unit.candidates]
    keys: dict[str, Any] = {"model": likeliest.model.name}
    most = [table.max_entries for table in unit.tables if table.max_entries and table.table in ("holding", "input")]
    if most and min(most) < likeliest.model.limits.max_registers:
        keys["limits"] = {"max_registers": min(most)}
    lines += toml.keys(keys)
    if not likeliest.likely or any(other.rank == likeliest.rank for other in others):
        could_be = " or ".join(candidate.model.name for candidate in unit.candidates)
        problem = f"could be {could_be}, but its values do not tell; see its nameplate"
        return [*notes, *toml.commented(lines)], problem
    return [*notes, *lines], ""

"""What a demo run found: figures per step before and after, held against the published ones and the truth log."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from deploy.local.errors import StackError
from deploy.local.tally import Tally


@dataclass(frozen=True)
class Expectation:
    """A published figure of one step on both days.

    Attributes
    ----------
    process, carrier, unit
        Which account's unit use it is.
    before, after
        Published values [unit].
    """

    process: str
    carrier: str
    unit: str
    before: float
    after: float


@dataclass(frozen=True)
class Published:
    """Content of a pack's ``expected.toml``.

    Attributes
    ----------
    source
        Where the figures were published.
    tolerance_percent
        How far a found figure may be from its published one.
    before, after
        Plant days.
    steps
        The figures.
    """

    source: str
    tolerance_percent: float
    before: date
    after: date
    steps: tuple[Expectation, ...]


def published(file: Path) -> Published:
    """Read a pack's ``expected.toml``."""
    document = tomllib.loads(file.read_text(encoding="utf-8"))
    return Published(
        document["source"],
        float(document["tolerance_percent"]),
        document["before"],
        document["after"],
        tuple(Expectation(**step) for step in document["step"]),
    )


@dataclass(frozen=True)
class StepDay:
    """One step on one day, from its accounts.

    Attributes
    ----------
    electricity_kwh, output, output_unit, kwh_per_output
        Of the electricity account; None: not known.
    co2_kg, co2_kg_per_output
        Sums over the step's carriers; None if one of them is not known.
    coverage, estimated_share
        Of the worst of the step's carriers and its output.
    revision, status
        Of the electricity account.
    factors
        Factor behind each carrier's CO₂: value, unit, year, version, status.
    notes
        Why a figure is missing.
    """

    electricity_kwh: float | None
    output: float | None
    output_unit: str | None
    kwh_per_output: float | None
    co2_kg: float | None
    co2_kg_per_output: float | None
    coverage: float
    estimated_share: float | None
    revision: int
    status: str
    factors: dict[str, Any]
    notes: list[str]


def step_days(accounts: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, StepDay]]:
    """Fold day accounts of all carriers into one row a process and day.

    Returns
    -------
    dict
        Process → first instant of the day → row; processes without electricity are left out.
    """
    grouped: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for account in accounts:
        grouped.setdefault((account["process"], account["start"]), {})[account["carrier"]] = account
    rows: dict[str, dict[str, StepDay]] = {}
    for (process, start), carriers in grouped.items():
        if "electricity" in carriers and not process.startswith("balance:"):
            rows.setdefault(process, {})[start] = _step_day(carriers)
    return rows


def _step_day(carriers: Mapping[str, Mapping[str, Any]]) -> StepDay:
    electricity = carriers["electricity"]
    output = electricity["output"]
    with_factor = [a for a in carriers.values() if a["co2"]["factor"] is not None or a["notes"]]
    kilograms = [a["co2"]["value"] for a in with_factor]
    co2 = None if None in kilograms or not kilograms else sum(kilograms)
    amount = output["value"] if output else None
    figures = [a["use"] for a in carriers.values()] + ([output] if output else [])
    shares = [f["estimated_share"] for f in figures]
    return StepDay(
        electricity["use"]["value"],
        amount,
        output["unit"] if output else None,
        electricity["unit_use"]["value"] if electricity["unit_use"] else None,
        co2,
        co2 / amount if co2 is not None and amount else None,
        min(f["coverage"] for f in figures),
        None if None in shares else max(shares),
        electricity["revision"],
        electricity["status"],
        {a["carrier"]: a["co2"]["factor"] for a in with_factor},
        sorted({note for a in carriers.values() for note in a["notes"]}),
    )


def carrier_uses(
    accounts: Iterable[Mapping[str, Any]], labels: Mapping[str, str], starts: tuple[str, str]
) -> list[dict[str, Any]]:
    """Use of every carrier but electricity, per process that has an output, before and after."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for account in accounts:
        if account["carrier"] == "electricity" or account["output"] is None or account["process"] not in labels:
            continue
        row = found.setdefault(
            (account["process"], account["carrier"]),
            {"process": account["process"], "label": labels[account["process"]], "carrier": account["carrier"]},
        )
        row["before" if account["start"] == starts[0] else "after"] = {
            "use": account["use"]["value"],
            "unit": account["use"]["unit"],
            "unit_use": account["unit_use"]["value"],
            "unit_use_unit": account["unit_use"]["unit"],
            "coverage": min(account["use"]["coverage"], account["output"]["coverage"]),
        }
    order = list(labels)
    return sorted(found.values(), key=lambda row: (order.index(row["process"]), row["carrier"]))


def build(
    plant: str,
    expected: Published,
    accounts: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    starts: tuple[str, str],
    counted: Tally,
) -> dict[str, Any]:
    """Put the report together.

    Parameters
    ----------
    plant
        Name of the pack.
    expected
        Published figures.
    accounts
        Day accounts of both days, all carriers, as the API gives them.
    labels
        Process → how people call it, in the order of the table.
    starts
        First instants of the days before and after, as the API writes them.
    counted
        Readings on both ends.

    Raises
    ------
    StackError
        If a step has no account on one of the days.
    """
    rows = step_days(accounts)
    steps = []
    for process, label in labels.items():
        if process not in rows:
            continue
        missing = [start for start in starts if start not in rows[process]]
        if missing:
            raise StackError(f"process {process!r} has no account of the day that starts {missing[0]}")
        before, after = (rows[process][start] for start in starts)
        change = None
        if before.kwh_per_output and after.kwh_per_output is not None:
            change = (after.kwh_per_output / before.kwh_per_output - 1) * 100
        steps.append(
            {
                "process": process,
                "label": label,
                "before": asdict(before),
                "after": asdict(after),
                "change_percent": change,
            }
        )
    figures = [
        _figure(step, when, getattr(step, when), rows[step.process][start], expected.tolerance_percent)
        for step in expected.steps
        for when, start in zip(("before", "after"), starts, strict=True)
    ]
    readings = {**asdict(counted), "lost": counted.lost}
    return {
        "plant": plant,
        "days": {"before": expected.before.isoformat(), "after": expected.after.isoformat()},
        "steps": steps,
        "carriers": carrier_uses(accounts, labels, starts),
        "published": {"source": expected.source, "tolerance_percent": expected.tolerance_percent, "figures": figures},
        "readings": readings,
        "ok": counted.clean and all(figure["within"] for figure in figures),
    }


def _figure(step: Expectation, when: str, value: float, row: StepDay, tolerance_percent: float) -> dict[str, Any]:
    found = row.kwh_per_output
    deviation = None if found is None else (found / value - 1) * 100
    return {
        "process": step.process,
        "day": when,
        "unit": step.unit,
        "published": value,
        "found": found,
        "deviation_percent": deviation,
        "within": deviation is not None and abs(deviation) <= tolerance_percent,
    }

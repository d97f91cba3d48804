"""What the demo shows: progress while it runs, the table of steps at the end."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from protocols.timebase import US


class Progress:
    """Live view on a terminal; a line now and then elsewhere.

    Parameters
    ----------
    console
        Where to show it.
    timezone
        Of the plant.
    first_us, last_us
        Plant times at which the run begins and ends [µs UTC].
    labels
        Process → how people call it.
    """

    LINE_EVERY = 12

    def __init__(
        self, console: Console, timezone: tzinfo, first_us: int, last_us: int, labels: Mapping[str, str]
    ) -> None:
        self._console = console
        self._timezone = timezone
        self._first_us = first_us
        self._last_us = last_us
        self._labels = labels
        self._updates = 0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, now_us: int, status: Mapping[str, Any], latest: Mapping[str, float | None]) -> None:
        """Show one state: plant time, counts of the store, unit use of each step's latest settled hour."""
        at = datetime.fromtimestamp(now_us / US, UTC).astimezone(self._timezone)
        readings = status["ledger"]["readings"]
        behind = status["feed"]["lag_rows"] or 0
        self._updates += 1
        if self._live is None:
            if self._updates % self.LINE_EVERY == 1:
                done = min(1.0, max(0.0, (now_us - self._first_us) / (self._last_us - self._first_us)))
                figures = ", ".join(
                    f"{self._labels[process]} {value:.2f}" for process, value in latest.items() if value is not None
                )
                self._console.print(
                    f"{done:4.0%}  plant time {at:%Y-%m-%d %H:%M}  {readings:,} readings stored, "
                    f"{behind} changes to settle  {figures + ' kWh/t' if figures else ''}",
                    highlight=False,
                    soft_wrap=True,
                )
            return
        grid = Table.grid(padding=(0, 2))
        grid.add_row("plant time", f"[bold]{at:%Y-%m-%d %H:%M}[/]")
        total, passed = self._last_us - self._first_us, max(0, now_us - self._first_us)
        grid.add_row("", ProgressBar(total=total, completed=min(passed, total), width=48))
        grid.add_row("readings stored", f"{readings:,}")
        grid.add_row("messages", f"{status['ledger']['messages']:,}")
        grid.add_row("changes to settle", f"{behind}")
        for process, value in latest.items():
            grid.add_row(self._labels[process], "…" if value is None else f"{value:.2f} kWh/t in the latest hour")
        self._live.update(grid, refresh=True)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


PICTURE_WIDTH = 118
"""Columns that the tables take in full."""


def _pair(before: float | None, after: float | None, digits: int, scale: float = 1.0) -> str:
    return " → ".join(_number(None if value is None else value * scale, digits) for value in (before, after))


def steps_table(report: Mapping[str, Any]) -> Table:
    """Electricity, output and CO₂ of each step, before → after."""
    table = Table(title=f"{report['plant']}: {report['days']['before']} → {report['days']['after']}")
    table.add_column("\nStep", no_wrap=True)
    for name in (
        "Electricity\nMWh",
        "\nOutput",
        "Unit use\nkWh per unit",
        "\nChange",
        "CO₂\nkg per unit",
        "\nCoverage",
    ):
        table.add_column(name, justify="right")
    for step in report["steps"]:
        before, after = step["before"], step["after"]

        def pair(key: str, digits: int, scale: float = 1.0, days: tuple[Any, Any] = (before, after)) -> str:
            return _pair(days[0][key], days[1][key], digits, scale)

        unit = before["output_unit"]
        change = step["change_percent"]
        table.add_row(
            step["label"],
            pair("electricity_kwh", 1, 1e-3),
            f"{pair('output', 0)} {unit}" if unit else "",
            pair("kwh_per_output", 3 if unit == "Nm3" else 2) if unit else "",
            "" if change is None else f"{change:+.2f} %",
            pair("co2_kg_per_output", 2) if unit else "",
            f"{min(before['coverage'], after['coverage']):.2%}",
        )
    return table


def carriers_table(report: Mapping[str, Any]) -> Table:
    """Other carriers that steps use, before → after."""
    table = Table(title="other carriers")
    table.add_column("Step", no_wrap=True)
    table.add_column("Carrier", no_wrap=True)
    for name in ("Use", "Unit use", "Coverage"):
        table.add_column(name, justify="right")
    for row in report["carriers"]:
        before, after = row["before"], row["after"]
        table.add_row(
            row["label"],
            row["carrier"],
            f"{_pair(before['use'], after['use'], 0)} {before['unit']}",
            f"{_pair(before['unit_use'], after['unit_use'], 4)} {before['unit_use_unit']}",
            f"{min(before['coverage'], after['coverage']):.2%}",
        )
    return table


def show(console: Console, report: Mapping[str, Any]) -> None:
    """Show the whole result."""
    console.print(steps_table(report))
    console.print(carriers_table(report))
    for line in verdict(report):
        console.print(line, soft_wrap=True)


def picture(report: Mapping[str, Any]) -> str:
    """The whole result as an SVG that loads nothing from elsewhere."""
    console = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO(), highlight=False)
    show(console, report)
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="make demo"), flags=re.DOTALL)


def verdict(report: Mapping[str, Any]) -> list[str]:
    """The lines under the tables: readings, CO₂ factors, the published figures."""
    counted = report["readings"]
    lines = [
        f"readings sent {counted['sent']:,} · stored {counted['stored']:,} · lost {counted['lost']:,} · "
        f"duplicated {counted['duplicated']:,}"
    ]
    factors = {
        f"{carrier} {factor['value']:g} {factor['unit']} ({factor['name']} {factor['year'] or ''}".rstrip() + ")"
        for step in report["steps"]
        for day in ("before", "after")
        for carrier, factor in step[day]["factors"].items()
        if factor is not None
    }
    lines.append(f"CO₂ by {' · '.join(sorted(factors))}")
    for figure in report["published"]["figures"]:
        found = _number(figure["found"], 3)
        deviation = figure["deviation_percent"]
        mark = "ok" if figure["within"] else "NOT WITHIN"
        off = "" if deviation is None else f"{deviation:+.3f} %, "
        lines.append(
            f"{figure['process']} {figure['day']}: published {figure['published']} {figure['unit']}, found {found} "
            f"({off}{mark} {report['published']['tolerance_percent']} %)"
        )
    return lines

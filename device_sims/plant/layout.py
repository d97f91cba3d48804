"""Which series and machines a plant has, and in which order they are computed."""

from __future__ import annotations

from dataclasses import dataclass

from device_sims.config import FleetConfig
from device_sims.errors import FleetError


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and places.

    Attributes
    ----------
    series
        Name → column.
    units
        Unit of each column's total; its rate is per h.
    machines
        Name → column of the running states.
    """

    series: dict[str, int]
    units: tuple[str, ...]
    machines: dict[str, int]

    def column(self, name: str, where: str) -> int:
        """Column of a series.

        Raises
        ------
        FleetError
            If there is none of that name; `where` says who asks.
        """
        try:
            return self.series[name]
        except KeyError:
            raise FleetError(f"{where}: series {name!r} is unknown; known: {', '.join(self.series)}") from None

    def machine(self, name: str, where: str) -> int:
        """Column of a machine.

        Raises
        ------
        FleetError
            If there is none of that name; `where` says who asks.
        """
        try:
            return self.machines[name]
        except KeyError:
            raise FleetError(f"{where}: machine {name!r} is unknown; known: {', '.join(self.machines)}") from None

    def unit(self, name: str) -> str:
        """Unit of a series."""
        return self.units[self.series[name]]


def layout(config: FleetConfig) -> Layout:
    """Lay the series out: outputs, uses in the file's order, main meter.

    Raises
    ------
    FleetError
        If a series is named twice, or refers to one that is not known further up.
    """
    series: dict[str, int] = {}
    units: list[str] = []
    machines = {machine.name: n for n, machine in enumerate(m for step in config.steps for m in step.machines)}

    def add(name: str, unit: str, where: str) -> None:
        if name in series:
            raise FleetError(f"{where}: series {name!r} exists already; allowed: one of each name")
        series[name] = len(series)
        units.append(unit)

    def known(names: tuple[str, ...], where: str, others: dict[str, int] | None = None) -> None:
        for name in names:
            if name not in series and name not in (others or {}):
                allowed = ", ".join((*(others or {}), *series))
                raise FleetError(f"{where}: {name!r} is unknown here; known: {allowed}")

    for step in config.steps:
        add(step.name, step.unit, f"step {step.name!r}")
    for use in config.uses:
        known(use.of, f"use {use.name!r}.of")
        for meter in use.meters:
            where = f"use {use.name!r}.meter {meter.name!r}"
            known(meter.follows, f"{where}.follows", machines)
        for meter in use.meters:
            add(meter.name, use.unit, f"use {use.name!r}.meter {meter.name!r}")
    if config.main is not None:
        main = config.main
        known((*main.branches, *main.generation), f"main {main.name!r}")
        meant = {units[series[name]] for name in (*main.branches, *main.generation)}
        if len(meant) > 1:
            raise FleetError(f"main {main.name!r} sums series in {', '.join(sorted(meant))}; allowed: one unit")
        for name in (main.name, main.export_name, main.loss_name):
            add(name, units[series[main.branches[0]]], f"main {main.name!r}")
    return Layout(series, tuple(units), machines)

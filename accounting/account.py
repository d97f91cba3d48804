"""The account of a process: what it used, made and emitted, and per unit of what it made.

One function for every caller, so that an account computed again, or offline, has the same bits. The account
is made at base intervals; longer ones are exact sums (`Account.longer`). A process holds the meters of all
processes below it; what it made is its own output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accounting import carriers, co2, intervals, series
from accounting.errors import UnknownFactorError
from accounting.factors import Factor, library
from accounting.model import Plant
from accounting.series import Series
from accounting.unit_use import UnitUse, unit_use

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Account:
    """Account of a process over consecutive intervals.

    Attributes
    ----------
    process
        Its name.
    edges_us
        Edges of the intervals [µs UTC].
    uses
        By carrier [1e-6 of the carrier's canonical unit].
    outputs
        By product [1e-6 of the product's unit].
    co2
        By carrier that emits [1e-6 kg]; unknown where a factor is missing.
    years
        Local year of each interval, which decides its factor.
    factors
        By carrier and year: the factors used.
    missing_factors
        By carrier and year: why there is none.
    """

    process: str
    edges_us: Int64s
    uses: dict[str, Series]
    outputs: dict[str, Series]
    co2: dict[str, Series]
    years: Int64s
    factors: dict[str, dict[int, Factor]]
    missing_factors: dict[str, dict[int, str]]

    def longer(self, edges_us: Int64s, timezone: str) -> Account:
        """Sums over longer intervals, such as hours or days.

        Raises
        ------
        IntervalError
            If an edge is none of this account's edges.
        """
        return Account(
            self.process,
            edges_us,
            {name: s.longer(edges_us) for name, s in self.uses.items()},
            {name: s.longer(edges_us) for name, s in self.outputs.items()},
            {name: s.longer(edges_us) for name, s in self.co2.items()},
            intervals.years(edges_us, timezone),
            self.factors,
            self.missing_factors,
        )

    def unit_use(self, carrier: str, product: str) -> UnitUse:
        """Use of a carrier per unit of a product."""
        return unit_use(self.uses[carrier], self.outputs[product])

    def co2_total(self) -> Series | None:
        """CO₂ of all carriers [1e-6 kg]; None if the process uses nothing that emits."""
        return series.total(list(self.co2.values())) if self.co2 else None

    def co2_per_unit(self, product: str) -> UnitUse | None:
        """CO₂ per unit of a product [kg/unit]; None if the process uses nothing that emits."""
        whole = self.co2_total()
        return None if whole is None else unit_use(whole, self.outputs[product])

    def factor(self, carrier: str, interval: int) -> Factor | None:
        """The factor that an interval's CO₂ of a carrier was computed with."""
        return self.factors.get(carrier, {}).get(int(self.years[interval]))


@dataclass(frozen=True, slots=True)
class BalanceAccount:
    """Main meters against their branches [1e-6 of the carrier's canonical unit].

    Attributes
    ----------
    main, branches
        Sums of the meters on either side.
    residual
        ``main - branches``: losses, what is not metered, and errors. It is shown and never spread.
    """

    name: str
    main: Series
    branches: Series
    residual: Series


def account(plant: Plant, process: str, points: Mapping[str, Series], edges_us: Int64s) -> Account:
    """Make the account of a process at base intervals.

    Parameters
    ----------
    plant
        The plant model.
    process
        Name of the process.
    points
        Use of each counter, by ``device/tag``, in canonical units. A point that is not here is unknown.
    edges_us
        Edges of the base intervals [µs UTC].

    Raises
    ------
    UnknownNameError
        If the plant has no such process.
    SeriesError
        If a point's series is over other intervals.
    """
    years = intervals.years(edges_us, plant.site.timezone)
    nothing = Series.unknown(edges_us)
    uses: dict[str, list[Series]] = {}
    emissions: dict[str, list[Series]] = {}
    found: dict[str, dict[int, Factor]] = {}
    missing: dict[str, dict[int, str]] = {}
    for meter in plant.meters_of(process):
        carrier = carriers.carrier(meter.carrier)
        used = points.get(meter.point, nothing).times(meter.share)
        uses.setdefault(carrier.name, []).append(used)
        if carrier.emission == "none":
            continue
        if carrier.name not in found:
            found[carrier.name], missing[carrier.name] = _factors(plant, carrier.name, np.unique(years))
        emissions.setdefault(carrier.name, []).append(co2.emission(used, carrier, found[carrier.name], years))
    outputs: dict[str, list[Series]] = {}
    for output in plant.outputs_of(process):
        outputs.setdefault(output.product, []).append(points.get(output.point, nothing))
    return Account(
        process,
        edges_us,
        {name: series.total(parts) for name, parts in uses.items()},
        {name: series.total(parts) for name, parts in outputs.items()},
        {name: series.total(parts) for name, parts in emissions.items()},
        years,
        found,
        missing,
    )


def balance(plant: Plant, name: str, points: Mapping[str, Series], edges_us: Int64s) -> BalanceAccount:
    """Set a balance's main meters against its branches.

    Parameters
    ----------
    plant
        The plant model.
    name
        Name of the balance.
    points, edges_us
        As in `account`.

    Raises
    ------
    UnknownNameError
        If the plant has no such balance.
    SeriesError
        If a point's series is over other intervals.
    """
    model = plant.balance(name)
    nothing = Series.unknown(edges_us)
    main = series.total([points.get(point, nothing) for point in model.main])
    branches = series.total([points.get(point, nothing) for point in model.branches])
    return BalanceAccount(name, main, branches, series.total([main, branches.times(-1.0)]))


def _factors(plant: Plant, carrier: str, years: Int64s) -> tuple[dict[int, Factor], dict[int, str]]:
    """Factors of a carrier by year, and why there is none where there is none."""
    found: dict[int, Factor] = {}
    missing: dict[int, str] = {}
    for year in years.tolist():
        try:
            found[year] = factor_for(plant, carrier, year)
        except UnknownFactorError as error:
            missing[year] = str(error)
    return found, missing


def factor_for(plant: Plant, carrier: str, year: int) -> Factor:
    """The factor that a plant's policy gives a carrier in a year.

    Raises
    ------
    UnknownFactorError
        If there is none; the message lists what exists.
    """
    emission = carriers.carrier(carrier).emission
    if emission == "fuel":
        return library().fuel(carrier)
    if emission == "heat":
        return library().heat()
    if emission == "grid" and plant.site.region is not None:
        return library().grid(plant.site.region, year, plant.factors.policy)
    if emission == "grid":
        raise UnknownFactorError(f"site {plant.site.name!r} names no region, so {carrier} has no factor")
    raise UnknownFactorError(f"carrier {carrier!r} takes no CO₂ factor")

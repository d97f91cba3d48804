"""CO₂ of a use: use × factor, in whole milligrams.

Scope 2 is location-based: electricity × the grid factor of the region and the local year of use. Scope 1 is
fuel × (heating value × carbon content × oxidation × 44/12). Each carrier takes one kind of factor and no
other. The emission of every meter is rounded once, per interval, to 1e-6 kg; sums over meters, processes
and longer intervals are exact after that, so the total is the same whichever way it is added.

Where a factor is missing there is no figure.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from accounting.carriers import Carrier, Emission
from accounting.errors import FactorKindError
from accounting.factors import Factor, Kind
from accounting.series import Series, weighted

_KINDS: dict[Emission, Kind] = {"grid": Kind.GRID_LOCATION, "fuel": Kind.FUEL, "heat": Kind.HEAT}
_KG_PER_UNIT = {
    ("kgCO2/kWh", "kWh"): 1.0,
    ("tCO2/t", "t"): 1000.0,
    ("tCO2/1e4m3", "Nm3"): 0.1,
    ("tCO2/GJ", "GJ"): 1000.0,
}


def kg_per_unit(factor: Factor, carrier: Carrier) -> float:
    """CO₂ of one canonical unit of a carrier [kg].

    Raises
    ------
    FactorKindError
        If the factor is not of the kind or substance that the carrier takes.
    """
    kind = _KINDS.get(carrier.emission)
    if kind is None:
        raise FactorKindError(f"carrier {carrier.name!r} takes no CO₂ factor; got one of kind {factor.kind.value!r}")
    factor.require(kind)
    weight = _KG_PER_UNIT.get((factor.unit, carrier.unit))
    if weight is None or factor.substance != carrier.name:
        raise FactorKindError(
            f"factor of {factor.substance!r} in {factor.unit} does not fit carrier {carrier.name!r} in {carrier.unit}"
        )
    return factor.value * weight


def emission(use: Series, carrier: Carrier, factors: Mapping[int, Factor], years: npt.NDArray[np.int64]) -> Series:
    """CO₂ of one meter's use.

    Parameters
    ----------
    use
        Use of a carrier [1e-6 of its canonical unit].
    carrier
        What was used.
    factors
        Factor by year; an interval of a year without one has no figure.
    years
        Local year of each interval.

    Returns
    -------
    Series
        CO₂ [1e-6 kg].

    Raises
    ------
    FactorKindError
        If a factor does not fit the carrier.
    SeriesError
        If an emission exceeds the fixed-point range.
    """
    weight = np.zeros(len(years))
    has_factor = np.zeros(len(years), np.bool_)
    for year, factor in factors.items():
        here = years == year
        weight[here] = kg_per_unit(factor, carrier)
        has_factor |= here
    return Series(
        use.edges_us,
        weighted(use.amount, weight),
        use.known & has_factor,
        np.where(has_factor, use.covered_us, 0),
        weighted(use.estimated, weight),
        use.flags,
    )

"""Base intervals to accounts: hours and days of processes and balances.

Invariants

- The figures come from `accounting.account` alone: the same function as everywhere, so the same bits.
- A period in which anything of the site is known has a row for every account of the site: a gap is a row
  whose use is null, never a missing row and never 0.
- Nothing here depends on what was computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accounting import account, carriers, co2, intervals
from accounting.errors import UnknownFactorError
from accounting.factors import Factor
from accounting.intervals import BASE_US, Level
from accounting.kernels.counter import Flag
from accounting.series import Series
from accounting.unit_use import UnitUse, unit_use
from cloud_ingest.settle.plants import BALANCE, Site, carrier_unit
from cloud_ingest.store.accounts import Figures, Key
from cloud_ingest.store.intervals import Intervals

PERIODS: tuple[Level, ...] = ("hour", "day")
_MAX_DAYS = 31
"""Most days that one chunk holds."""
_MICRO_DIGITS = -6
_FLAG_NAMES = [(int(flag), flag.name.lower()) for flag in Flag if flag.name is not None]

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive whole days of a site.

    Attributes
    ----------
    edges_us
        Edges of its base intervals, hours and days [µs UTC].
    """

    edges_us: Mapping[str, Int64s]

    @property
    def first_us(self) -> int:
        """First instant [µs UTC]."""
        return int(self.edges_us["base"][0])

    @property
    def end_us(self) -> int:
        """First instant after it [µs UTC]."""
        return int(self.edges_us["base"][-1])

    def holding(self, period: str, at_us: Int64s) -> Int64s:
        """Positions of the periods that hold some instants."""
        return np.unique(np.searchsorted(self.edges_us[period], at_us, side="right") - 1)


def chunks(starts_us: Int64s, timezone: str) -> Iterator[Chunk]:
    """The days that hold some instants, ascending and distinct, cut into runs of consecutive days."""
    far = np.flatnonzero(np.diff(starts_us) > 3 * 86_400_000_000) + 1
    for cluster in np.split(starts_us, far):
        if not len(cluster):
            continue
        days = intervals.edges("day", int(cluster[0]), int(cluster[-1]) + 1, timezone)
        places = np.unique(np.searchsorted(days, cluster, side="right") - 1)
        for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            for first in range(int(run[0]), int(run[-1]) + 1, _MAX_DAYS):
                last = min(first + _MAX_DAYS, int(run[-1]) + 1)
                own = days[first : last + 1]
                span = int(own[0]), int(own[-1])
                yield Chunk(
                    {
                        "base": intervals.edges("base", *span, timezone),
                        "hour": intervals.edges("hour", *span, timezone),
                        "day": own,
                    }
                )


def by_point(rows: Intervals, names: Mapping[int, str], edges_us: Int64s) -> dict[str, Series]:
    """Stored intervals as one series a point, with nothing known where there is no row."""
    places = (rows.starts_us - edges_us[0]) // BASE_US
    found = {}
    for point_id in np.unique(rows.points):
        mine = rows.points == point_id
        at = places[mine]
        nothing = Series.unknown(edges_us)
        amount, covered, estimated = (np.zeros_like(nothing.amount) for _ in range(3))
        known = np.zeros_like(nothing.known)
        flags = np.zeros_like(nothing.flags)
        amount[at] = rows.uses[mine]
        known[at] = rows.known[mine]
        covered[at] = rows.covered_us[mine]
        estimated[at] = rows.estimated[mine]
        flags[at] = rows.flags[mine].astype(np.uint8)
        found[names[int(point_id)]] = Series(edges_us, amount, known, covered, estimated, flags)
    return found


@dataclass(slots=True)
class Wanted:
    """Accounts of one chunk that are to be computed.

    Attributes
    ----------
    places
        Positions of periods by (process or balance, carrier, period).
    """

    places: dict[tuple[str, str, Level], set[int]] = field(default_factory=dict)

    def add(self, process: str, carrier: str, period: Level, places: Iterable[int]) -> None:
        """Ask for some periods of one account."""
        self.places.setdefault((process, carrier, period), set()).update(places)


class Computer:
    """Computes accounts of one chunk of one site.

    Parameters
    ----------
    site
        Whose.
    chunk
        Which days.
    series
        Use of the site's points at base intervals.
    on_missing_factor
        Called with carrier, year and reason where a CO₂ figure has no factor.
    """

    def __init__(
        self,
        site: Site,
        chunk: Chunk,
        series: Mapping[str, Series],
        on_missing_factor: Callable[[str, int, str], None],
    ) -> None:
        self._site = site
        self._chunk = chunk
        self._series = series
        self._on_missing_factor = on_missing_factor
        self._longer: dict[tuple[str, str], Series] = {}
        self._nothing = Series.unknown(chunk.edges_us["base"])

    def told(self, period: str) -> NDArray[np.bool_]:
        """Periods in which anything of the site is known or happened."""
        base = self._chunk.edges_us["base"]
        any_row = np.zeros(len(base) - 1, np.bool_)
        for series in self._series.values():
            any_row |= series.known | (series.flags != 0)
        at = intervals.groups(base, self._chunk.edges_us[period])
        return np.logical_or.reduceat(any_row, at[:-1])

    def figures(self, wanted: Wanted) -> Iterator[tuple[Key, Figures]]:
        """The accounts asked for."""
        by_process: dict[str, list[tuple[str, Level, set[int]]]] = {}
        for (process, carrier, period), places in wanted.places.items():
            by_process.setdefault(process, []).append((carrier, period, places))
        for process, asked in by_process.items():
            if process.startswith(BALANCE):
                yield from self._balance(process, asked)
            else:
                yield from self._process(process, asked)

    def _process(self, process: str, asked: Sequence[tuple[str, Level, set[int]]]) -> Iterator[tuple[Key, Figures]]:
        plant = self._site.plant
        base = account.account(plant, process, self._series, self._chunk.edges_us["base"])
        meters = plant.meters_of(process)
        outputs = plant.outputs_of(process)
        for period in PERIODS:
            if not any(name == period for _, name, _ in asked):
                continue
            whole = base.longer(self._chunk.edges_us[period], self._site.timezone)
            products = list(whole.outputs)
            product = products[0] if len(products) == 1 else None
            output = None if product is None else whole.outputs[product]
            output_inputs = [(o.point, 1.0) for o in outputs]
            for carrier, name, places in asked:
                if name != period:
                    continue
                row = _Rows(
                    period,
                    whole.uses[carrier],
                    carrier,
                    output,
                    product,
                    None if product is None else plant.product(product).unit,
                    whole.co2.get(carrier),
                    [(m.point, m.share) for m in meters if m.carrier == carrier],
                    output_inputs,
                )
                notes = (
                    [f"several products ({', '.join(products)}): no use per unit of one"] if len(products) > 1 else []
                )
                for place in sorted(places):
                    factor = whole.factor(carrier, place)
                    missing = whole.missing_factors.get(carrier, {}).get(int(whole.years[place]))
                    yield self._row(process, row, place, factor, missing, notes)

    def _balance(self, name: str, asked: Sequence[tuple[str, Level, set[int]]]) -> Iterator[tuple[Key, Figures]]:
        plant = self._site.plant
        model = plant.balance(name.removeprefix(BALANCE))
        edges = self._chunk.edges_us["base"]
        carrier = carriers.carrier(model.carrier)
        base = account.balance(plant, model.name, self._series, edges).residual
        years = intervals.years(edges, self._site.timezone)
        factors: dict[int, Factor] = {}
        missing: dict[int, str] = {}
        for year in np.unique(years).tolist() if carrier.emission != "none" else ():
            try:
                factors[year] = account.factor_for(plant, carrier.name, year)
            except UnknownFactorError as error:
                missing[year] = str(error)
        emission = None if carrier.emission == "none" else co2.emission(base, carrier, factors, years)
        inputs = [*((point, 1.0) for point in model.main), *((point, -1.0) for point in model.branches)]
        for _, period, places in asked:
            longer = self._chunk.edges_us[period]
            longer_years = intervals.years(longer, self._site.timezone)
            row = _Rows(
                period,
                base.longer(longer),
                carrier.name,
                None,
                None,
                None,
                None if emission is None else emission.longer(longer),
                inputs,
                [],
            )
            for place in sorted(places):
                year = int(longer_years[place])
                yield self._row(name, row, place, factors.get(year), missing.get(year), [])

    def _row(
        self, process: str, rows: _Rows, place: int, factor: Factor | None, missing: str | None, notes: Sequence[str]
    ) -> tuple[Key, Figures]:
        told = list(notes)
        use, output, emission = rows.use, rows.output, rows.emission
        inputs = {
            role: [self._input(point, share, rows.period, place) for point, share in points]
            for role, points in (("use", rows.inputs), ("output", rows.output_inputs))
        }
        silent = [name for entries in inputs.values() for name, _, amount, *_ in entries if amount is None]
        told.extend(f"nothing is known of {name}" for name in silent)
        if use.known[place] and output is not None and output.known[place] and output.amount[place] <= 0:
            told.append(f"no {rows.product} was made: no use per unit of it")
        if missing is not None:
            told.append(missing)
            year = int(intervals.years(self._chunk.edges_us[rows.period][place : place + 2], self._site.timezone)[0])
            self._on_missing_factor(rows.carrier, year, missing)
        flags = int(use.flags[place]) | (int(output.flags[place]) if output is not None else 0)
        start, end = (int(edge) for edge in self._chunk.edges_us[rows.period][place : place + 2])
        return (process, rows.carrier, rows.period, start), Figures(
            ends_us=end,
            use=_decimal(use, place),
            unit=carrier_unit(rows.carrier),
            coverage=float(rows.coverage[place]),
            estimated_share=float(rows.estimated_share[place]) if use.known[place] else None,
            product=rows.product,
            output=None if output is None else _decimal(output, place),
            output_unit=rows.product_unit,
            output_coverage=None if rows.output_coverage is None else float(rows.output_coverage[place]),
            output_estimated_share=(
                float(rows.output_estimated_share[place])
                if output is not None and rows.output_estimated_share is not None and output.known[place]
                else None
            ),
            unit_use=_ratio(rows.unit_use, place),
            co2_kg=None if emission is None else _decimal(emission, place),
            co2_kg_per_output=_ratio(rows.co2_per_output, place),
            factor=None if factor is None else _factor(factor),
            flags=flag_names(flags),
            notes=told,
            inputs=inputs,
        )

    def _input(self, point: str, share: float, period: str, place: int) -> list[Any]:
        series = self._longer.get((point, period))
        if series is None:
            series = self._series.get(point, self._nothing).longer(self._chunk.edges_us[period])
            self._longer[point, period] = series
        return [
            point,
            share,
            int(series.amount[place]) if series.known[place] else None,
            int(series.covered_us[place]),
            int(series.estimated[place]),
            flag_names(int(series.flags[place])),
        ]


class _Rows:
    """One account's series over all periods of a chunk, with what follows from them."""

    def __init__(
        self,
        period: Level,
        use: Series,
        carrier: str,
        output: Series | None,
        product: str | None,
        product_unit: str | None,
        emission: Series | None,
        inputs: Sequence[tuple[str, float]],
        output_inputs: Sequence[tuple[str, float]],
    ) -> None:
        self.period: Level = period
        self.use = use
        self.carrier = carrier
        self.output = output
        self.product = product
        self.product_unit = product_unit
        self.emission = emission
        self.inputs = inputs
        self.output_inputs = output_inputs
        self.coverage = use.coverage
        self.estimated_share = use.estimated_share
        self.output_coverage = None if output is None else output.coverage
        self.output_estimated_share = None if output is None else output.estimated_share
        self.unit_use = None if output is None else unit_use(use, output)
        self.co2_per_output = None if output is None or emission is None else unit_use(emission, output)


def flag_names(flags: int) -> list[str]:
    """Lower-case names of the bits of `accounting.kernels.counter.Flag`."""
    return [name for bit, name in _FLAG_NAMES if flags & bit] if flags else []


def _decimal(series: Series, place: int) -> Decimal | None:
    """An amount as an exact figure."""
    return Decimal(int(series.amount[place])).scaleb(_MICRO_DIGITS) if series.known[place] else None


def _ratio(ratio: UnitUse | None, place: int) -> float | None:
    if ratio is None or np.isnan(ratio.value[place]):
        return None
    return float(ratio.value[place])


def _factor(factor: Factor) -> dict[str, Any]:
    return {
        "value": factor.value,
        "unit": factor.unit,
        "kind": factor.kind.value,
        "name": factor.region or factor.substance,
        "year": factor.year,
        "version": factor.version,
        "source": factor.source,
        "status": factor.status,
        "provisional": factor.provisional,
    }

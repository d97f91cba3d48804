"""Plant models in the form that settle works with: sites, their counters, their accounts.

Invariants

- A counter is what the plant model names, the point's birth describes and units allow; a point that is not
  all three has a reason in `Site.unusable`, and accounts show it as unknown, never as 0.
- `Counter.parameters` holds everything but readings that a counter's use depends on: when it changes, its
  whole history is computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from accounting import carriers, model
from accounting.errors import AccountingError
from accounting.factors import library
from accounting.kernels.counter import counter_use
from accounting.model import Plant
from accounting.series import resolution_for
from cloud_ingest.settle.config import PlantFile
from cloud_ingest.store.intervals import CataloguePoint
from protocols import quantities
from protocols.config import ConfigError
from protocols.reading import ValueType
from protocols.timebase import US

BALANCE = "balance:"
"""Before the name of a balance, in the place of a process's name."""
UNANNOUNCED = "no agent has announced it"
"""Why a point can't be used that no birth described."""


@dataclass(frozen=True, slots=True)
class Source:
    """A plant model as read from its file.

    Attributes
    ----------
    tenant
        Whose.
    file
        Where it was read.
    text
        The document.
    plant
        What it says.
    """

    tenant: str
    file: str
    text: str
    plant: Plant

    @property
    def digest(self) -> bytes:
        """SHA-256 of the document: its version."""
        return hashlib.sha256(self.text.encode()).digest()

    @property
    def factors(self) -> str:
        """Version of the factor tables it is used with."""
        return library().version


def read(files: Iterable[PlantFile]) -> list[Source]:
    """Read and check plant models, without connecting to anything.

    Raises
    ------
    ConfigError
        With every problem of the first wrong file, one a line; or if two files are of one site.
    """
    found: list[Source] = []
    for entry in files:
        try:
            text = Path(entry.file).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{entry.file}: can't be read: {error.strerror}") from error
        try:
            plant = model.load(text, entry.file)
        except AccountingError as error:
            raise ConfigError(str(error)) from error
        for other in found:
            if (other.tenant, other.plant.site.name) == (entry.tenant, plant.site.name):
                raise ConfigError(
                    f"{entry.file}: site {plant.site.name!r} of tenant {entry.tenant!r} is described in {other.file} "
                    "too; allowed: one file a site"
                )
        found.append(Source(entry.tenant, entry.file, text, plant))
    return found


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter, ready for the kernel.

    Attributes
    ----------
    point_id
        Its id.
    name
        ``device/tag``.
    value_type
        Which table its readings are in.
    unit_factor
        Canonical units in one unit of the counter.
    resolution
        Fixed-point unit that its use is computed in [its unit].
    gap_limit_us
        Longer distances of two valid readings are gaps [µs].
    estimate_limit_us
        Over longer silences than this its use is not even split by time [µs].
    modulus, max_rate_per_h, step
        As the kernel takes them [its unit].
    poll_interval_us
        Expected distance of readings [µs].
    """

    point_id: int
    name: str
    value_type: ValueType
    unit_factor: float
    resolution: float
    gap_limit_us: int
    estimate_limit_us: int
    modulus: float | None
    max_rate_per_h: float | None
    step: float
    poll_interval_us: int

    @property
    def parameters(self) -> str:
        """Everything but readings that its use depends on."""
        return orjson.dumps(
            [
                self.unit_factor,
                self.resolution,
                self.gap_limit_us,
                self.estimate_limit_us,
                self.modulus,
                self.max_rate_per_h,
                self.step,
            ]
        ).decode()


@dataclass(slots=True)
class Site:
    """A site whose accounts are kept.

    Attributes
    ----------
    tenant_id, plant, plant_model_id
        Whose, what, and the stored version of it.
    accounts
        Every (process or balance, carrier) that has an account, in the plant model's order.
    inputs
        Points, ``device/tag``, that decide when an account is complete.
    counters
        Usable counters by ``device/tag``.
    by_id
        The same by point id.
    unusable
        Why the plant model's other points can't be used.
    """

    tenant_id: int
    plant: Plant
    plant_model_id: int
    accounts: tuple[tuple[str, str], ...] = ()
    inputs: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    counters: dict[str, Counter] = field(default_factory=dict)
    by_id: dict[int, Counter] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plant = self.plant
        for process in plant.processes:
            outputs = tuple(output.point for output in plant.outputs_of(process.name))
            meters: dict[str, list[str]] = {}
            for meter in plant.meters_of(process.name):
                meters.setdefault(meter.carrier, []).append(meter.point)
            for carrier, points in meters.items():
                self.inputs[process.name, carrier] = (*points, *outputs)
        for balance in plant.balances:
            self.inputs[BALANCE + balance.name, balance.carrier] = (*balance.main, *balance.branches)
        self.accounts = tuple(self.inputs)

    @property
    def name(self) -> str:
        """The site's name."""
        return self.plant.site.name

    @property
    def timezone(self) -> str:
        """The site's time zone."""
        return self.plant.site.timezone

    def users_of(self, point: str) -> list[str]:
        """Processes and balances whose account depends on a point."""
        return [*self.plant.processes_of(point), *(BALANCE + name for name in self.plant.balances_of(point))]

    def resolve(self, points: Sequence[CataloguePoint], estimate_limit_us: int) -> None:
        """Find the plant model's points among those that agents have announced."""
        by_name = {point.name: point for point in points}
        self.counters, self.unusable = {}, {}
        for name in sorted(self.plant.points()):
            point = by_name.get(f"{self.name}/{name}")
            reason = _why_not(point, self.plant.unit_of(name))
            if point is None or reason:
                self.unusable[name] = reason
                continue
            counter = _counter(point, name, estimate_limit_us)
            try:
                _probe(counter)
            except AccountingError as error:
                self.unusable[name] = str(error)
                continue
            self.counters[name] = counter
        self.by_id = {counter.point_id: counter for counter in self.counters.values()}


def _why_not(point: CataloguePoint | None, unit: str | None) -> str:
    """Why a point can't be used; empty if it can."""
    if point is None:
        return UNANNOUNCED
    if point.kind != "counter" or point.value_type not in ("float", "int"):
        return f"it is a {point.kind} of value type {point.value_type}; allowed: counters of float or int"
    canonical = quantities.quantity(point.quantity).canonical_unit
    if unit != canonical and canonical != "1":
        return f"its {point.quantity} is accounted in {canonical}; the plant model wants {unit}"
    return ""


def _counter(point: CataloguePoint, name: str, estimate_limit_us: int) -> Counter:
    definition = point.definition
    factor = quantities.unit(point.quantity, point.unit).factor
    gap_limit_us = round(definition["gap_limit_s"] * US)
    return Counter(
        point.point_id,
        name,
        point.value_type,
        factor,
        resolution_for(factor),
        gap_limit_us,
        max(estimate_limit_us, 3 * gap_limit_us),
        definition["modulus"],
        definition["max_rate_per_h"],
        abs(definition["scale"]),
        max(round(definition["poll_interval_s"] * US), 1),
    )


def _probe(counter: Counter) -> None:
    """Let the kernel check the parameters."""
    counter_use(
        np.array([0, 1], np.int64),
        np.array([0.0, 0.0]),
        np.array([0, 1], np.int64),
        resolution=counter.resolution,
        gap_limit_us=counter.gap_limit_us,
        modulus=counter.modulus,
        max_rate_per_h=counter.max_rate_per_h,
        step=counter.step,
    )


def compile_kernels() -> None:
    """Have every path of the kernels compiled, so that the first round need not wait for it."""
    times = np.arange(5, dtype=np.int64) * US
    counter_use(times, np.array([5.0, 6.0, 0.0, 7.0, 8.0]), times[::2], gap_limit_us=60 * US, max_rate_per_h=7200.0)


def carrier_unit(carrier: str) -> str:
    """Canonical unit of a carrier."""
    return carriers.carrier(carrier).unit

"""The plant: lines, products, processes with their meters and outputs, balances, factor policy.

Points are named ``device/tag``; readings come and go under these names. A process's account holds its own
meters and those of all processes below it (`Plant.meters_of`); its output is its own alone, since what a
child makes goes into what the parent makes.

`load` refuses a model that contradicts itself, with every problem found, one a line: file, process, field,
value, what is allowed.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from accounting import carriers, factors, intervals
from accounting.errors import AccountingError, PlantError, UnknownNameError

_NAME = re.compile(r"[\w\-.]{1,64}")
_NAME_RULE = "1 to 64 letters, digits, '_', '-' or '.'"
_SHARE_TOLERANCE = 1e-9


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name; allowed: {_NAME_RULE}")
    return value


def _check_point(value: str) -> str:
    parts = value.split("/")
    if len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError(f"{value!r} is not a point; allowed: device/tag, each {_NAME_RULE}")
    return value


def _check_carrier(value: str) -> str:
    try:
        return carriers.carrier(value).name
    except AccountingError as error:
        raise ValueError(str(error)) from error


def _check_timezone(value: str) -> str:
    try:
        return intervals.zone(value).key
    except AccountingError as error:
        raise ValueError(str(error)) from error


def _check_region(value: str) -> str:
    try:
        return factors.library().region(value)
    except AccountingError as error:
        raise ValueError(str(error)) from error


Name = Annotated[str, AfterValidator(_check_name)]
PointName = Annotated[str, AfterValidator(_check_point)]
CarrierName = Annotated[str, AfterValidator(_check_carrier)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Site(_Entry):
    """Where the plant is.

    Attributes
    ----------
    name
        The site's name in the points' full names.
    timezone
        IANA name; hours and days of accounts are local.
    region
        Whose grid factor applies; None: the CO₂ of electricity has no figure.
    """

    name: Name
    label: str = ""
    label_zh: str = ""
    timezone: Annotated[str, AfterValidator(_check_timezone)]
    region: Annotated[str, AfterValidator(_check_region)] | None = None


class FactorPolicy(_Entry):
    """How CO₂ factors are chosen.

    Attributes
    ----------
    policy
        "exact": a year without a factor has no figure. "latest-published": it takes the latest earlier one,
        marked provisional.
    grid
        Which grid factor turns electricity into CO₂ (scope 2).
    """

    policy: factors.Policy = "exact"
    grid: Literal["location"] = "location"


class Line(_Entry):
    """A production line."""

    name: Name
    label: str = ""
    label_zh: str = ""


class Product(_Entry):
    """What a process makes; its outputs are counted in `unit`."""

    name: Name
    unit: str = Field(min_length=1, max_length=16)
    label: str = ""
    label_zh: str = ""


class Meter(_Entry):
    """A counter that measures a carrier; `share` of it counts (-1 subtracts)."""

    point: PointName
    carrier: CarrierName
    share: float = Field(default=1.0, ge=-1, le=1)

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.share == 0:
            raise ValueError("share 0 counts nothing; allowed: -1 to 1 without 0")
        return self


class Output(_Entry):
    """A counter of what a process makes."""

    point: PointName
    product: Name


class Process(_Entry):
    """A step: meters of what it uses, counters of what it makes."""

    name: Name
    label: str = ""
    label_zh: str = ""
    line: Name | None = None
    parent: Name | None = None
    meters: tuple[Meter, ...] = Field(default=(), alias="meter")
    outputs: tuple[Output, ...] = Field(default=(), alias="output")


class Balance(_Entry):
    """Main meters = branches + residual; the residual is shown, never spread."""

    name: Name
    label: str = ""
    label_zh: str = ""
    carrier: CarrierName = "electricity"
    main: tuple[PointName, ...] = Field(min_length=1)
    branches: tuple[PointName, ...] = Field(min_length=1)


class Plant(_Entry):
    """A plant model; see `load`."""

    site: Site
    factors: FactorPolicy = FactorPolicy()
    lines: tuple[Line, ...] = Field(default=(), alias="line")
    products: tuple[Product, ...] = Field(default=(), alias="product")
    processes: tuple[Process, ...] = Field(alias="process")
    balances: tuple[Balance, ...] = Field(default=(), alias="balance")

    @cached_property
    def _by_name(self) -> dict[str, Process]:
        return {process.name: process for process in self.processes}

    @cached_property
    def _users(self) -> dict[str, tuple[str, ...]]:
        """Point -> processes whose account depends on it, in document order."""
        users: dict[str, set[str]] = {}
        for process in self.processes:
            above = {process.name, *(ancestor.name for ancestor in self._ancestors(process))}
            for meter in process.meters:
                users.setdefault(meter.point, set()).update(above)
            for output in process.outputs:
                users.setdefault(output.point, set()).add(process.name)
        order = [process.name for process in self.processes]
        return {point: tuple(name for name in order if name in names) for point, names in users.items()}

    def _ancestors(self, process: Process) -> Iterator[Process]:
        while process.parent is not None:
            process = self._by_name[process.parent]
            yield process

    def process(self, name: str) -> Process:
        """Look a process up.

        Raises
        ------
        UnknownNameError
            Listing the processes that exist.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownNameError(f"process {name!r} is unknown; known: {', '.join(self._by_name)}") from None

    def balance(self, name: str) -> Balance:
        """Look a balance up.

        Raises
        ------
        UnknownNameError
            Listing the balances that exist.
        """
        for candidate in self.balances:
            if candidate.name == name:
                return candidate
        raise UnknownNameError(f"balance {name!r} is unknown; known: {', '.join(b.name for b in self.balances)}")

    def product(self, name: str) -> Product:
        """Look a product up.

        Raises
        ------
        UnknownNameError
            Listing the products that exist.
        """
        for candidate in self.products:
            if candidate.name == name:
                return candidate
        raise UnknownNameError(f"product {name!r} is unknown; known: {', '.join(p.name for p in self.products)}")

    def points(self) -> frozenset[str]:
        """Every point, ``device/tag``, that an account or a balance depends on."""
        return frozenset(self._users) | {point for b in self.balances for point in (*b.main, *b.branches)}

    def processes_of(self, point: str) -> tuple[str, ...]:
        """Processes whose account depends on a point: those it meters, all above them, those it counts output of."""
        return self._users.get(point, ())

    def balances_of(self, point: str) -> tuple[str, ...]:
        """Balances that a point is part of."""
        return tuple(b.name for b in self.balances if point in b.main or point in b.branches)

    def meters_of(self, name: str) -> tuple[Meter, ...]:
        """Meters of a process and of all processes below it, in document order, own ones first."""
        process = self.process(name)
        found = list(process.meters)
        for child in self.processes:
            if child.parent == name:
                found.extend(self.meters_of(child.name))
        return tuple(found)

    def outputs_of(self, name: str) -> tuple[Output, ...]:
        """Output counters of a process; not those of processes below it."""
        return self.process(name).outputs

    def children_of(self, name: str) -> tuple[str, ...]:
        """Names of the processes directly below a process."""
        return tuple(process.name for process in self.processes if process.parent == name)

    def unit_of(self, point: str) -> str | None:
        """Canonical unit that a point's use is accounted in; None if the plant model does not name it."""
        for process in self.processes:
            for meter in process.meters:
                if meter.point == point:
                    return carriers.carrier(meter.carrier).unit
            for output in process.outputs:
                if output.point == point:
                    return self.product(output.product).unit
        for balance in self.balances:
            if point in balance.main or point in balance.branches:
                return carriers.carrier(balance.carrier).unit
        return None


def json_schema() -> str:
    """JSON Schema of a plant model, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Plant.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def load(text: str, file: str) -> Plant:
    """Parse and check a plant model.

    Parameters
    ----------
    text
        The TOML document.
    file
        Name used in errors.

    Raises
    ------
    PlantError
        With every problem found, one a line.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlantError(f"{file}: not TOML: {error}") from error
    try:
        plant = Plant.model_validate(document)
    except ValidationError as error:
        raise PlantError("\n".join(f"{file}: {line}" for line in _explained(error, document))) from error
    found = list(_contradictions(plant))
    if found:
        raise PlantError("\n".join(f"{file}: {line}" for line in found))
    return plant


def _explained(error: ValidationError, document: Any) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        place = _place(problem["loc"], document)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key; allowed keys are those that print-config shows"
        found = problem["input"]
        show = problem["type"] not in ("value_error", "missing") and not isinstance(found, dict | list | BaseModel)
        yield f"{place}: {message}" + (f" (found {found!r:.80})" if show else "")


def _place(steps: Sequence[int | str], document: Any) -> str:
    """``process 'kiln'.meter 'kiln_main/energy'.share`` for ``('process', 2, 'meter', 0, 'share')``."""
    parts: list[str] = []
    here = document
    for step in steps:
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            here = None
        if isinstance(step, str):
            parts.append(step)
            continue
        name = here.get("name", here.get("point")) if isinstance(here, dict) else None
        parts[-1] += f" {name!r}" if isinstance(name, str) else f"[{step}]"
    return ".".join(parts) or "document"


def _contradictions(plant: Plant) -> Iterator[str]:
    """Whatever is wrong between entries."""
    if not plant.processes:
        yield "process: there is none; allowed: at least one"
    for kind, names in (
        ("line", [x.name for x in plant.lines]),
        ("product", [x.name for x in plant.products]),
        ("process", [x.name for x in plant.processes]),
        ("balance", [x.name for x in plant.balances]),
    ):
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield f"{kind} {name!r}.name: {names.count(name)} entries have this name; allowed: one"
    yield from _unknown_references(plant)
    yield from _cycles(plant)
    yield from _double_counts(plant)
    yield from _balance_problems(plant)


def _unknown_references(plant: Plant) -> Iterator[str]:
    lines = [x.name for x in plant.lines]
    products = [x.name for x in plant.products]
    processes = [x.name for x in plant.processes]
    for process in plant.processes:
        where = f"process {process.name!r}"
        if process.line is not None and process.line not in lines:
            yield f"{where}.line: {process.line!r} is unknown; allowed: {_listed(lines)}"
        if process.parent is not None and process.parent not in processes:
            yield f"{where}.parent: {process.parent!r} is unknown; allowed: {_listed(processes)}"
        for output in process.outputs:
            if output.product not in products:
                yield (
                    f"{where}.output {output.point!r}.product: {output.product!r} is unknown; "
                    f"allowed: {_listed(products)}"
                )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none is declared"


def _cycles(plant: Plant) -> Iterator[str]:
    parents = {process.name: process.parent for process in plant.processes}
    for name in parents:
        path, here = [name], parents[name]
        while here is not None and here not in path:
            path.append(here)
            here = parents.get(here)
        if here == name:
            cycle = " < ".join([*path, name])
            yield f"process {name!r}.parent: {parents[name]!r} closes a cycle ({cycle}); allowed: a tree"


def _double_counts(plant: Plant) -> Iterator[str]:
    """A meter may be split between processes, never counted more than once."""
    carrier_of: dict[str, tuple[str, str]] = {}
    shares: dict[str, list[tuple[str, float]]] = {}
    product_of: dict[str, tuple[str, str]] = {}
    for process in plant.processes:
        own: set[str] = set()
        for meter in process.meters:
            where = f"process {process.name!r}.meter {meter.point!r}"
            if meter.point in own:
                yield f"{where}.point: listed twice in this process; allowed: once"
                continue
            own.add(meter.point)
            first, carrier = carrier_of.setdefault(meter.point, (process.name, meter.carrier))
            if carrier != meter.carrier:
                yield (
                    f"{where}.carrier: {meter.carrier!r}, but process {first!r} takes it as {carrier!r}; "
                    f"allowed: one carrier a point"
                )
            shares.setdefault(meter.point, []).append((process.name, meter.share))
        for output in process.outputs:
            where = f"process {process.name!r}.output {output.point!r}"
            if output.point in own:
                yield f"{where}.point: listed twice in this process; allowed: once, as meter or output"
            own.add(output.point)
            first, product = product_of.setdefault(output.point, (process.name, output.product))
            if product != output.product:
                yield (
                    f"{where}.product: {output.product!r}, but process {first!r} counts it as {product!r}; "
                    f"allowed: one product a point"
                )
    units = {x.name: x.unit for x in plant.products}
    for point in sorted(carrier_of.keys() & product_of.keys()):
        unit = carriers.carrier(carrier_of[point][1]).unit
        process_name, product = product_of[point]
        if units.get(product, unit) != unit:
            yield (
                f"process {process_name!r}.output {point!r}.product: {product!r} is in {units[product]}, but the "
                f"point is a meter of {carrier_of[point][1]!r} in {unit} too; allowed: the same unit"
            )
    for point, places in shares.items():
        total = sum(share for _, share in places)
        if total > 1 + _SHARE_TOLERANCE:
            names = ", ".join(f"{name!r} {share:g}" for name, share in places)
            yield (
                f"process {places[-1][0]!r}.meter {point!r}.share: in several places ({names}), together counted "
                f"{total:g} times; allowed: shares that add up to at most 1"
            )


def _balance_problems(plant: Plant) -> Iterator[str]:
    carrier_of = {meter.point: meter.carrier for process in plant.processes for meter in process.meters}
    for balance in plant.balances:
        points = [*balance.main, *balance.branches]
        for point in sorted({p for p in points if points.count(p) > 1}):
            yield f"balance {balance.name!r}: {point!r} is named {points.count(point)} times; allowed: once"
        for field, names in (("main", balance.main), ("branches", balance.branches)):
            for point in names:
                carrier = carrier_of.get(point, balance.carrier)
                if carrier != balance.carrier:
                    yield (
                        f"balance {balance.name!r}.{field}: {point!r} measures {carrier!r}; "
                        f"allowed: points of {balance.carrier!r}"
                    )

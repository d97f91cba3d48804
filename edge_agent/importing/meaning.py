"""Which quantity a line is of: told by unit and name where these leave one answer, else refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from edge_agent.importing.cells import CellError
from protocols import quantities
from protocols.errors import QuantityError
from protocols.modbus.words import RegisterType
from protocols.quantities import QUANTITIES, Kind, Medium

_ANY_CASE = re.IGNORECASE
_MEDIA: tuple[tuple[str, Medium], ...] = (
    (r"compressed.?air|druckluft|air comprim|压缩空气", "compressed_air"),
    (r"natural.?gas|erdgas|gaz naturel|天然气|燃气", "natural_gas"),
    (r"steam|dampf|vapeur|蒸汽", "steam"),
    (r"\bheat|thermal|wärme|chaleur|热量|热能|热功率|供热", "heat"),
    (r"diesel|柴油", "diesel"),
    (r"\bcoal|kohle|煤", "coal"),
    (r"\bwater|wasser|\beau\b|用水|水量|水表|水流", "water"),
    (r"electric|elektr|électr|电能|电量|电度|有功|无功", "electricity"),
)
_ELECTRIC = re.compile(
    r"active|wirk|有功|电能|电量|电度|electric|elektr|import|export|phase|l[123]\b|正向|反向", _ANY_CASE
)
_THERMAL: tuple[Medium, ...] = ("heat", "steam", "water")
_RESETS = re.compile(
    r"today|daily|month|yearly|previous|last (day|year)|tages|monats|当日|本日|今日|昨日|当月|本月|上月|本年", _ANY_CASE
)
_TOTAL = re.compile(r"total|cumul|accum|zähler|gesamt|sum|累计|累积|总", _ANY_CASE)
_RATIO = re.compile(r"ratio|humidity|valve|level|opening|湿度|开度|液位", _ANY_CASE)
_POWER_FACTOR = re.compile(
    r"power.?factor|\bpf(?![a-z])|cos.?(phi|φ)|leistungsfaktor|facteur de puissance|功率因数", _ANY_CASE
)
_RUNNING = re.compile(r"running|\bon.?off\b|\brun\b|betrieb\b|运行", _ANY_CASE)
_HOURS = re.compile(r"hour|running|operat|betriebsst|运行|小时", _ANY_CASE)


@dataclass(frozen=True, slots=True)
class Meaning:
    """Quantity, kind and medium."""

    quantity: str
    kind: Kind
    medium: Medium


def medium_of(text: str) -> Medium | None:
    """Read a medium; None if the cell is empty."""
    if not text:
        return None
    folded = text.casefold().replace(" ", "_")
    if folded in get_args(Medium):
        return folded  # type: ignore[return-value]
    found = _media_in(text)
    if len(found) != 1:
        raise CellError(f"medium {text!r} can't be read; allowed: {', '.join(get_args(Medium))}")
    return found[0]


def tell(name: str, unit: str, type_: RegisterType, medium: Medium | None) -> Meaning:
    """What a line is about.

    Parameters
    ----------
    name
        Name and description, as in the list.
    unit
        Symbol; "1" for none.
    type_
        Type of the register.
    medium
        If the list, or who imports it, says so.
    """
    if _RESETS.search(name):
        raise CellError("counts by day, month or year, so it starts again; allowed: totals and present values")
    hinted = [medium] if medium else _media_in(name)
    quantity = _quantity(name, unit, type_, medium)
    kind = _kind(name, quantity)
    return Meaning(quantity, kind, _medium(quantity, unit, kind, hinted))


def _quantity(name: str, unit: str, type_: RegisterType, medium: Medium | None) -> str:
    if type_ == "bool":
        return "running" if _RUNNING.search(name) else "state"
    if unit == "1":
        if _POWER_FACTOR.search(name):
            return "power_factor"
        raise CellError("no unit, and the name does not tell the quantity; allowed: a unit, or power factor")
    fitting = [found.name for found in QUANTITIES.values() if any(one.symbol == unit for one in found.units)]
    if len(fitting) == 1 and fitting[0] != "running_time":
        return fitting[0]
    for electric, thermal in (("active_energy", "thermal_energy"), ("active_power", "thermal_power")):
        if electric in fitting:
            chosen = _electric_or_thermal(name, medium)
            if chosen is None:
                raise CellError(
                    f"{unit} may be {electric} or {thermal}; allowed: a name that tells, --medium electricity or heat"
                )
            return electric if chosen == "electricity" else thermal
    if unit == "%" and _POWER_FACTOR.search(name):
        return "power_factor"
    if unit == "%" and _RATIO.search(name):
        return "ratio"
    if "running_time" in fitting and _HOURS.search(name):
        return "running_time"
    raise CellError(f"unit {unit!r} and the name do not tell the quantity; possible: {', '.join(fitting)}")


def _electric_or_thermal(name: str, medium: Medium | None) -> str | None:
    if medium is not None:
        return "electricity" if medium == "electricity" else "heat" if medium in _THERMAL else None
    # The name of a medium alone is no proof: a water pump's meter counts electricity.
    electric, thermal = _ELECTRIC.search(name) is not None, not {"heat", "steam"}.isdisjoint(_media_in(name))
    if electric == thermal:
        return None
    return "electricity" if electric else "heat"


def _kind(name: str, quantity: str) -> Kind:
    kinds = QUANTITIES[quantity].kinds
    if len(kinds) == 1 or (kinds[0] == "counter" and _TOTAL.search(name)):
        return kinds[0]
    raise CellError(f"{quantity} may be {' or '.join(kinds)}; allowed: a name that tells, such as total")


def _medium(quantity: str, unit: str, kind: Kind, hinted: list[Medium]) -> Medium:
    allowed = QUANTITIES[quantity].media
    if not allowed:
        return hinted[0] if len(hinted) == 1 else "none"
    candidates = [found for found in hinted if found in allowed] or (list(allowed) if not hinted else [])
    if len(allowed) == 1:
        candidates = list(allowed)
    if len(candidates) != 1:
        raise CellError(f"medium of {quantity} is not told; allowed: {', '.join(allowed)}, by name or --medium")
    try:
        quantities.check(quantity, unit, kind, candidates[0])
    except QuantityError as error:
        raise CellError(str(error)) from error
    return candidates[0]


def _media_in(text: str) -> list[Medium]:
    return [medium for pattern, medium in _MEDIA if re.search(pattern, text, re.IGNORECASE)]

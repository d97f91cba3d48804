"""What a kind of device is: how the fields of any model of its medium follow from the plant.

A new kind is one new file in this package with a module constant ``KIND``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from device_sims.errors import FleetError
from protocols import quantities
from protocols.config import Model
from protocols.meters.schema import Field

if TYPE_CHECKING:
    from device_sims.config import Node
    from device_sims.plant.layout import Layout
    from device_sims.plant.plant import Moment

Value = Callable[["Moment"], float]
"""Evaluates one field at a moment."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a device is connected to.

    Attributes
    ----------
    device
        Its name.
    columns
        Role → column of the series in that role; roles that measure nothing are absent.
    options
        The kind's options.
    """

    device: str
    columns: Mapping[str, int]
    options: Any

    def total(self, role: str) -> Value:
        """Total in a role; 0 if nothing is connected."""
        column = self.columns.get(role)
        return _nothing if column is None else lambda moment: moment.total(column)

    def rate(self, role: str) -> Value:
        """Rate in a role [per h]; 0 if nothing is connected."""
        column = self.columns.get(role)
        return _nothing if column is None else lambda moment: moment.rate(column)


def _nothing(_moment: Moment) -> float:
    return 0.0


class NoOptions(Model):
    """For kinds without options."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of device with registers.

    Attributes
    ----------
    name
        As in the fleet file.
    roles
        What it measures: role → unit of the series; the first is the main role.
    bind
        From wiring and field to the field's value in the canonical unit of its quantity, counters from 0.
        It returns None for a field that the kind can't show.
    counted
        Role whose total a field counts; None for gauges, and for counters of something derived.
    options
        Model of the options.
    """

    name: str
    roles: Mapping[str, str]
    bind: Callable[[Wiring, Field], Value | None]
    counted: Callable[[Field], str | None]
    options: type[Model] = NoOptions


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A kind of device with named variables.

    Attributes
    ----------
    name
        As in the fleet file.
    bind
        From a variable's description and the plant's layout to its value: a float, or a bool for states.
        It raises `FleetError` if the description does not fit the plant.
    """

    name: str
    bind: Callable[[Node, Layout], Value]


def field_value(kind: Kind, wiring: Wiring, field: Field, start: float) -> Value:
    """Value of a field in its own unit.

    Parameters
    ----------
    kind, wiring, field
        Which field of which device.
    start
        Counters: shown at the plant's start [unit of the field].

    Raises
    ------
    FleetError
        If the kind can't show the field.
    """
    canonical = kind.bind(wiring, field)
    if canonical is None:
        raise FleetError(
            f"device {wiring.device!r}.field {field.name!r}: kind {kind.name!r} can't show quantity {field.quantity!r}"
        )
    unit = quantities.unit(field.quantity, field.unit)
    factor, offset = 1 / unit.factor, start - unit.offset / unit.factor
    return lambda moment: canonical(moment) * factor + offset

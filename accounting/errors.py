"""Errors of accounting. Every message says what was found and what is allowed."""

from __future__ import annotations


class AccountingError(Exception):
    """Base of all errors raised by `accounting`."""


class PlantError(AccountingError):
    """A plant model is wrong; one problem a line: file, place, value, what is allowed."""


class UnknownNameError(AccountingError):
    """A process, point or balance of this name is not in the plant model."""


class CarrierError(AccountingError):
    """The carrier is unknown."""


class KernelInputError(AccountingError):
    """Arrays given to a kernel break its conditions (order, finiteness, range, length)."""


class IntervalError(AccountingError):
    """Interval edges, or the time zone they are in, cannot be used."""


class SeriesError(AccountingError):
    """Series over different intervals cannot be combined."""


class FactorError(AccountingError):
    """Base of errors about factors."""


class UnknownFactorError(FactorError):
    """There is no such factor; the message lists what exists."""


class FactorKindError(FactorError):
    """A factor of one kind was used where another kind is needed."""


class FactorTableError(FactorError):
    """A factor table contradicts itself or holds a value outside its range."""


class ReadingsError(AccountingError):
    """A file of readings cannot be used."""

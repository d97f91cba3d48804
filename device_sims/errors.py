"""Errors of the simulated fleet. Every message says what was found and what is allowed."""

from __future__ import annotations


class SimulationError(Exception):
    """Base of all errors raised by `device_sims`."""


class FleetError(SimulationError):
    """The fleet file contradicts itself, or names something that does not exist."""


class PlantTimeError(SimulationError):
    """A time whose plant day was released, and can't be evaluated any more."""


class ServeError(SimulationError):
    """A socket of the fleet can't be opened."""


class TruthError(SimulationError):
    """A truth log can't be read, or does not hold what was asked for."""

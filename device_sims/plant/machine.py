"""When a machine stands, and how its load runs up and down.

The course of a day is a pure function of seed, machine and day: stops are drawn for each day by itself, and
those of the days before and after are looked at too, since they may reach over midnight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_sims.plant import noise
from device_sims.plant.calendar import Span, span
from device_sims.plant.description import Machine
from device_sims.plant.noise import Floats
from protocols.timebase import US

_KNOTS_PER_H = 6
_FLICKER = 0.003
"""Standard deviation of the fast part of the output, relative."""
_LEAST_LOAD = 0.3


@dataclass(frozen=True, slots=True)
class Course:
    """What a machine does over a day; one value a cell.

    Attributes
    ----------
    running
        Whether it runs.
    ramp
        0 standing, 1 in normal running, between them on the way.
    level
        Load in normal running, about 1.
    output_per_h
        Output [unit of the step per h].
    """

    running: NDArray[np.bool_]
    ramp: Floats
    level: Floats
    output_per_h: Floats


def course(machine: Machine, timezone: str, seed: int, day: Span, grid_s: int) -> Course:
    """Draw what a machine does on a plant day.

    Parameters
    ----------
    machine
        Its description.
    timezone
        Of the plant.
    seed
        Of the plant.
    day
        Times of the day.
    grid_s
        Length of a cell [s].
    """
    grid_us = grid_s * US
    cells = (day.end_us - day.start_us) // grid_us
    at_us = day.start_us + (np.arange(cells) + 0.5) * grid_us
    ramp = np.zeros(cells)
    running = np.zeros(cells, dtype=np.bool_)
    ramp_us = max(machine.ramp_minutes * 60 * US, 1.0)
    for begin, end in _runs(machine, timezone, seed, day, grid_us):
        inside = (at_us >= begin) & (at_us < end)
        running |= inside
        up, down = (at_us[inside] - begin) / ramp_us, (end - at_us[inside]) / ramp_us
        ramp[inside] = np.minimum(1.0, np.minimum(up, down))
    slow = noise.smooth(seed, f"{machine.name}.load", day.ordinal, cells, max(1, round(day.hours * _KNOTS_PER_H)))
    level = np.maximum(_LEAST_LOAD, 1.0 + machine.noise * slow)
    fast = noise.generator(seed, f"{machine.name}.flicker", day.ordinal).standard_normal(cells)
    flicker = 1.0 + _FLICKER * np.clip(fast, -3, 3)
    return Course(running, ramp, level, machine.rate_per_h * ramp * level * flicker)


def _runs(machine: Machine, timezone: str, seed: int, day: Span, grid_us: int) -> list[tuple[float, float]]:
    """Spans in which the machine runs and that touch the day [µs UTC]."""
    stops: list[tuple[int, int]] = []
    # A stop lasts at most 20 h and begins at most 2 h off its day, so the neighbours are enough.
    for ordinal in (day.ordinal - 1, day.ordinal, day.ordinal + 1):
        stops += _stops(machine, seed, span(timezone, ordinal), grid_us)
    runs: list[tuple[float, float]] = []
    here: float = float("-inf")
    for begin, end in sorted(stops):
        if begin > here:
            runs.append((here, begin))
        here = max(here, end)
    runs.append((here, float("inf")))
    return [(begin, end) for begin, end in runs if begin < day.end_us and end > day.start_us]


def _stops(machine: Machine, seed: int, day: Span, grid_us: int) -> list[tuple[int, int]]:
    """Stops that are drawn for one day, on the grid [µs UTC]."""
    draw = noise.generator(seed, f"{machine.name}.stops", day.ordinal)
    found = []
    for stop in machine.stops:
        chance, place, shift, length = draw.random(4)
        if chance >= stop.probability:
            continue
        if stop.start is None:
            from_midnight_s = place * day.hours * 3600
        else:
            from_midnight_s = stop.start.hour * 3600.0 + stop.start.minute * 60 + stop.start.second
        from_midnight_s += (2 * shift - 1) * stop.jitter_minutes * 60
        shortest, longest = stop.minutes
        seconds = 60 * (shortest + length * (longest - shortest))
        begin = day.start_us + round(from_midnight_s * US / grid_us) * grid_us
        found.append((begin, begin + max(1, round(seconds * US / grid_us)) * grid_us))
    return found

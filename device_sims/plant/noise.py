"""Random courses that are a pure function of seed, name and plant day, and continuous from day to day."""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_LARGEST = 2.5
"""Draws are cut off at so many standard deviations, so that a small load never turns negative."""


def generator(seed: int, name: str, day: int) -> np.random.Generator:
    """Random numbers of one name on one plant day.

    Parameters
    ----------
    seed
        Of the plant.
    name
        What is drawn; other names draw independently.
    day
        Proleptic ordinal of the plant day.
    """
    return np.random.default_rng([seed, crc32(name.encode()), day])


def smooth(seed: int, name: str, day: int, cells: int, knots: int) -> Floats:
    """Course with mean 0 and standard deviation about 1 at its knots, straight between them.

    Parameters
    ----------
    seed, name, day
        See `generator`.
    cells
        How many values the day has.
    knots
        How many stretches it has.
    """
    today = np.clip(generator(seed, name, day).standard_normal(knots), -_LARGEST, _LARGEST)
    tomorrow = np.clip(generator(seed, name, day + 1).standard_normal(1), -_LARGEST, _LARGEST)
    places = (np.arange(cells) + 0.5) * (knots / cells)
    course: Floats = np.interp(places, np.arange(knots + 1), np.concatenate((today, tomorrow)))
    return course

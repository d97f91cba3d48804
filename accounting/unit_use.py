"""Use per unit of output, such as kWh/t.

Formula: unit use = use / output, both over the same interval. There is no figure (NaN), never 0 and never
infinite, where the use is unknown, the output is unknown, or the output is not above 0: what a standing
step draws belongs to its use, not to a tonne that was not made.

A figure's coverage is the lesser of its two inputs', its estimated share the greater.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accounting.errors import SeriesError
from accounting.series import Series

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class UnitUse:
    """Use per unit of output in consecutive intervals.

    Attributes
    ----------
    value
        [unit of the use / unit of the output]; NaN: no figure.
    coverage, estimated_share
        0 to 1.
    """

    value: Float64s
    coverage: Float64s
    estimated_share: Float64s


def unit_use(use: Series, output: Series) -> UnitUse:
    """Use per unit of output.

    Raises
    ------
    SeriesError
        If the two are over different intervals.
    """
    if not np.array_equal(use.edges_us, output.edges_us):
        raise SeriesError("use and output are over different intervals; allowed: the same edges")
    exists = use.known & output.known & (output.amount > 0)
    value = np.full(len(exists), np.nan)
    np.divide(use.amount, output.amount, out=value, where=exists)
    return UnitUse(
        value,
        np.minimum(use.coverage, output.coverage),
        np.maximum(use.estimated_share, output.estimated_share),
    )

"""Specific uses drawn at random, so that nothing but the truth log knows what a plant uses."""

from __future__ import annotations

from device_sims.config import FleetConfig
from device_sims.plant.noise import generator

SPREAD = 0.3
"""Largest change of a use, relative, both ways."""
PERIOD_SPREAD = 0.03
"""Largest further change of each of its periods: an improvement that nobody knows, but no jump at midnight."""


def draw_specific_uses(config: FleetConfig) -> FleetConfig:
    """Change all specific uses by factors drawn by the plant's seed: one for each use, one for each period."""
    uses = []
    for use in config.uses:
        draw = generator(config.plant.seed, f"{use.name}.drawn", 0)
        factor_of_use = 1 + SPREAD * draw.uniform(-1, 1)
        factors = factor_of_use * (1 + PERIOD_SPREAD * draw.uniform(-1, 1, len(use.periods)))
        periods = tuple(
            period.model_copy(update={"specific_use": period.specific_use * float(factor)})
            for period, factor in zip(use.periods, factors, strict=True)
        )
        uses.append(use.model_copy(update={"periods": periods}))
    return config.model_copy(update={"uses": tuple(uses)})

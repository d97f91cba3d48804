"""One plant day: constant rates a cell, and totals that are their integrals.

Invariants

- The total at any time is the total at the start of its cell plus rate times time: exact, without steps.
- A use over the day is its specific use times the output of that day, idle draw included. The exception is a
  day with little or no output: with less than twice the idle draw, the idle draw shrinks to half of the use;
  without any, there is the idle draw alone.
- Bought - exported = branches + loss - generation, in every cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_sims.config import FleetConfig
from device_sims.plant import noise
from device_sims.plant.calendar import Span, span
from device_sims.plant.description import MainMeter, Use, UseMeter
from device_sims.plant.layout import Layout
from device_sims.plant.machine import Course, course
from device_sims.plant.noise import Floats

_KNOTS_PER_H = 2
_MOST_IDLE = 0.5
"""Largest part of a day's use that may be idle draw."""


@dataclass(frozen=True, slots=True)
class Day:
    """A computed plant day.

    Attributes
    ----------
    span
        Its times.
    rates
        Per cell and series [unit of the series per h].
    totals
        Per edge of the cells and series, from the plant's start [unit of the series].
    running
        Per cell and machine.
    """

    span: Span
    rates: Floats
    totals: Floats
    running: NDArray[np.bool_]


@dataclass(slots=True)
class _Work:
    """Columns of a day as they are computed."""

    config: FleetConfig
    layout: Layout
    day: Span
    cell_h: float
    courses: dict[str, Course]
    machine_rates: dict[str, float]
    rates: Floats

    def column(self, name: str) -> Floats:
        return self.rates[:, self.layout.series[name]]


def compute(config: FleetConfig, layout: Layout, seed: int, ordinal: int, before: Floats) -> Day:
    """Compute a plant day.

    Parameters
    ----------
    config
        The fleet.
    layout
        Its series.
    seed
        Of the plant.
    ordinal
        Of the day.
    before
        Totals at its start, one a series.
    """
    plant = config.plant
    day = span(plant.timezone, ordinal)
    machines = [machine for step in config.steps for machine in step.machines]
    courses = {m.name: course(m, plant.timezone, seed, day, plant.grid_s) for m in machines}
    running = np.column_stack([courses[m.name].running for m in machines])
    rates = np.zeros((len(running), len(layout.series)))
    machine_rates = {machine.name: machine.rate_per_h for machine in machines}
    work = _Work(config, layout, day, plant.grid_s / 3600, courses, machine_rates, rates)
    for step in config.steps:
        work.column(step.name)[:] = sum(courses[machine.name].output_per_h for machine in step.machines)
    for use in config.uses:
        _use(work, use, seed)
    if config.main is not None:
        _main(work, config.main)
    totals = np.empty((len(running) + 1, len(layout.series)))
    totals[0] = 0.0
    np.cumsum(work.rates * work.cell_h, axis=0, out=totals[1:])
    totals += before
    return Day(day, work.rates, totals, running)


def specific_use(use: Use, ordinal: int) -> float:
    """Specific use that holds on a plant day."""
    held = [period for period in use.periods if period.first_day.toordinal() <= ordinal]
    return (held[-1] if held else use.periods[0]).specific_use


def _use(work: _Work, use: Use, seed: int) -> None:
    output_per_h = np.sum([work.column(name) for name in use.of], axis=0)
    total = specific_use(use, work.day.ordinal) * float(output_per_h.sum()) * work.cell_h
    idle = np.array([meter.idle for meter in use.meters])
    idle_total = float(idle.sum()) * work.day.hours
    if total == 0:
        idle_scale, shapes = 1.0, np.zeros((len(output_per_h), len(use.meters)))
    else:
        idle_scale = min(1.0, _MOST_IDLE * total / idle_total) if idle_total else 1.0
        shapes = _shapes(work, use, seed, output_per_h)
        shapes *= (total - idle_scale * idle_total) / (float(shapes.sum()) * work.cell_h)
    for n, meter in enumerate(use.meters):
        work.column(meter.name)[:] = idle_scale * idle[n] + shapes[:, n]


def _shapes(work: _Work, use: Use, seed: int, output_per_h: Floats) -> Floats:
    """Course of each meter's draw above idle, to be scaled by one number; 0 where it stands."""
    shapes = np.column_stack([_shape(work, use, meter, seed) for meter in use.meters])
    if not shapes.any():  # all that the meters follow stands, yet there is output
        return np.outer(output_per_h, [meter.share for meter in use.meters])
    return shapes


def _shape(work: _Work, use: Use, meter: UseMeter, seed: int) -> Floats:
    shape = np.zeros(len(work.rates))
    normal = 0.0
    for name in meter.follows or _leaders(work.config, use):
        if name in work.courses:
            lead, weight = work.courses[name], work.machine_rates[name]
            shape += weight * lead.ramp * (meter.fixed + (1 - meter.fixed) * lead.level)
            normal += weight
        else:
            shape += work.column(name)
            normal += float(work.column(name).mean())
    cells, knots = len(shape), max(1, round(work.day.hours * _KNOTS_PER_H))
    wander = 1 + meter.vary * noise.smooth(seed, f"{meter.name}.share", work.day.ordinal, cells, knots)
    return shape * wander * (meter.share / normal) if normal else shape


def _leaders(config: FleetConfig, use: Use) -> tuple[str, ...]:
    machines = {step.name: [machine.name for machine in step.machines] for step in config.steps}
    return tuple(lead for name in use.of for lead in machines.get(name, [name]))


def _main(work: _Work, main: MainMeter) -> None:
    load = np.sum([work.column(name) for name in main.branches], axis=0)
    loss = load * (main.loss + main.loss_at_rated * load / main.rated)
    bought = load + loss
    for name in main.generation:
        bought = bought - work.column(name)
    work.column(main.name)[:] = np.maximum(bought, 0.0)
    work.column(main.export_name)[:] = np.maximum(-bought, 0.0)
    work.column(main.loss_name)[:] = loss

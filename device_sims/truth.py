"""The truth log: what the plant really used and made, straight from the simulation, past any register.

A file of JSON lines. The first is the header: series with units, the specific uses that hold (drawn ones
too), and which series each counter of the fleet counts. After it, in the order of plant time:

- ``{"at": edge, "totals": [...]}`` at each quarter of an hour: true totals since the plant's start;
- ``{"span": "hour" | "day", "from": edge, "to": edge, "uses": {...}}`` as each local hour and plant day
  ends: for each use of the fleet file its amount, the output and their ratio (null without output).

Invariants

- A line is written whole and never changed; a last line without its end is not there yet.
- A restarted fleet with the same configuration, seed and clock writes the same lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from device_sims.errors import TruthError
from device_sims.plant.calendar import QUARTER_US, ordinal_at, span
from device_sims.plant.noise import Floats
from device_sims.plant.plant import Plant
from protocols.timebase import US

Course = tuple[NDArray[np.int64], Floats]
"""Edges [µs UTC] and totals there."""

FILE_NAME = "truth.jsonl"
_HOUR_US = 3600 * US


def header(plant: Plant, points: Mapping[str, str]) -> dict[str, Any]:
    """First line of a truth log."""
    config, layout = plant.config, plant.layout
    return {
        "v": 1,
        "plant": config.plant.name,
        "timezone": config.plant.timezone,
        "seed": config.plant.seed,
        "start": plant.start_us,
        "series": [{"name": name, "unit": layout.unit(name)} for name in layout.series],
        "specific_uses": {
            use.name: [{"from": p.first_day.isoformat(), "specific_use": p.specific_use} for p in use.periods]
            for use in config.uses
        },
        "points": dict(points),
    }


class TruthLog:
    """Writes the truth as plant time passes.

    Parameters
    ----------
    path
        A file, or a folder in which it is called ``truth.jsonl``. An older log there is replaced by `publish`;
        until then the new one is called ``….new``.
    plant
        Whose truth.
    points
        Counters, and the series that each of them counts.
    from_us
        Plant time from which on it is of interest [µs UTC].
    """

    def __init__(self, path: Path, plant: Plant, points: Mapping[str, str], from_us: int) -> None:
        self._plant = plant
        self._uses = plant.config.uses
        self._next_us = max(plant.start_us, from_us // QUARTER_US * QUARTER_US)
        self._hour: tuple[int, Floats] | None = None
        self._day: tuple[int, Floats] | None = None
        if path.is_dir() or not path.suffix:
            path.mkdir(parents=True, exist_ok=True)
            path = path / FILE_NAME
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._draft: Path | None = path.with_name(f"{path.name}.new")
            self._file: BinaryIO = self._draft.open("wb", buffering=0)
        except OSError as error:
            raise TruthError(f"truth log {path} can't be written: {error}") from error
        self._file.write(orjson.dumps(header(plant, points)) + b"\n")

    @property
    def next_us(self) -> int:
        """First edge that is not written yet [µs UTC]."""
        return self._next_us

    def write_until(self, now_us: int) -> None:
        """Write the edges that have passed."""
        lines: list[bytes] = []
        while self._next_us <= now_us:
            lines += self._edge(self._next_us)
            self._next_us += QUARTER_US
        if lines:
            self._file.write(b"\n".join(lines) + b"\n")

    def publish(self) -> None:
        """Put the log in its place; it goes on there."""
        if self._draft is not None:
            self._draft.replace(self.path)
            self._draft = None

    def close(self) -> None:
        """Close the file; a log that was never published is dropped."""
        self._file.close()
        if self._draft is not None:
            self._draft.unlink()
            self._draft = None

    def _edge(self, at_us: int) -> Iterator[bytes]:
        totals = self._plant.at(at_us).totals()
        yield orjson.dumps({"at": at_us, "totals": totals.tolist()})
        timezone = self._plant.config.plant.timezone
        midnight_us = span(timezone, ordinal_at(timezone, at_us)).start_us
        if (at_us - midnight_us) % _HOUR_US == 0:
            if self._hour is not None:
                yield self._achieved("hour", *self._hour, at_us, totals)
            self._hour = (at_us, totals)
        if at_us == midnight_us:
            if self._day is not None:
                yield self._achieved("day", *self._day, at_us, totals)
            self._day = (at_us, totals)

    def _achieved(self, kind: str, from_us: int, before: Floats, to_us: int, after: Floats) -> bytes:
        column = self._plant.layout.series
        uses = {}
        for use in self._uses:
            amount = sum(float(after[n] - before[n]) for n in (column[meter.name] for meter in use.meters))
            output = sum(float(after[n] - before[n]) for n in (column[name] for name in use.of))
            uses[use.name] = {"use": amount, "output": output, "specific_use": amount / output if output else None}
        return orjson.dumps({"span": kind, "from": from_us, "to": to_us, "uses": uses})


@dataclass(frozen=True, slots=True)
class Achieved:
    """A specific use that was truly achieved.

    Attributes
    ----------
    span
        "hour" or "day".
    from_us, to_us
        When [µs UTC].
    name
        Of the use.
    use, output
        Amounts [units of the fleet file].
    """

    span: str
    from_us: int
    to_us: int
    name: str
    use: float
    output: float

    @property
    def specific_use(self) -> float | None:
        """Use per output; None without output."""
        return self.use / self.output if self.output else None


class Truth(Mapping[str, Course]):
    """A truth log that was read: series → edges and totals.

    Attributes
    ----------
    header
        First line of the log.
    achieved
        Specific uses of the hours and days that passed.
    """

    def __init__(self, header: dict[str, Any], courses: dict[str, Course], achieved: tuple[Achieved, ...]) -> None:
        self.header = header
        self.achieved = achieved
        self._courses = courses

    def __getitem__(self, series: str) -> Course:
        return self._courses[series]

    def __iter__(self) -> Iterator[str]:
        return iter(self._courses)

    def __len__(self) -> int:
        return len(self._courses)

    def use(self, series: str, from_us: int, to_us: int) -> float:
        """True use or output between two logged edges [unit of the series].

        Raises
        ------
        TruthError
            If the series is unknown, or an edge is not in the log.
        """
        if series not in self._courses:
            raise TruthError(f"series {series!r} is not in the truth log; known: {', '.join(self._courses)}")
        edges, totals = self._courses[series]
        found = []
        for edge in (from_us, to_us):
            place = int(np.searchsorted(edges, edge))
            if place == len(edges) or edges[place] != edge:
                have = f"{edges[0]} to {edges[-1]}" if len(edges) else "none"
                raise TruthError(f"edge {edge} is not in the truth log; it has each 15 min: {have}")
            found.append(float(totals[place]))
        return found[1] - found[0]


def load(path: Path) -> Truth:
    """Read a truth log, also while it is being written.

    Parameters
    ----------
    path
        The file, or its folder.

    Raises
    ------
    TruthError
        If it is not there, or not a truth log.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        content = file.read_bytes()
        lines = [orjson.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        head = lines[0]
        edges = np.array([line["at"] for line in lines[1:] if "at" in line], dtype=np.int64)
        names = [series["name"] for series in head["series"]]
        totals = np.array([line["totals"] for line in lines[1:] if "at" in line]).reshape(len(edges), len(names))
        achieved = tuple(
            Achieved(line["span"], line["from"], line["to"], name, found["use"], found["output"])
            for line in lines[1:]
            if "span" in line
            for name, found in line["uses"].items()
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise TruthError(f"{file} is not a truth log: {error!r}") from error
    return Truth(head, {name: (edges, totals[:, n]) for n, name in enumerate(names)}, achieved)

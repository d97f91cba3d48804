"""A small plant for tests of settle and the API: readings go in as an agent sends them, accounts come out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accounting import model
from cloud_ingest.ingest.write import Flush
from cloud_ingest.settle.config import SettleConfig
from cloud_ingest.settle.plants import Source
from cloud_ingest.settle.rounds import Rounds
from cloud_ingest.signals import Signals
from cloud_ingest.store.pool import Connection
from protocols.birth import Point
from protocols.quantities import Kind, Medium
from protocols.reading import Columns, ValueType
from tests.support.fake_agent import FakeAgent

TENANT = "acme"
SITE = "works"
DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000
MIDNIGHT_US = 1_655_136_000_000_000
"""2022-06-14 00:00 in Shanghai [µs UTC]."""

MODEL = """
[site]
name = "works"
timezone = "Asia/Shanghai"
region = "河北"

[[product]]
name = "meal"
unit = "t"

[[process]]
name = "grinding"
[[process.meter]]
point = "mill/energy"
carrier = "electricity"
[[process.meter]]
point = "fans/energy"
carrier = "electricity"
[[process.output]]
point = "scale/mass"
product = "meal"

[[process]]
name = "drying"
parent = "grinding"
[[process.meter]]
point = "dryer/energy"
carrier = "electricity"
[[process.meter]]
point = "dryer/coal"
carrier = "bituminous coal"

[[process]]
name = "pumping"
[[process.meter]]
point = "pumps/volume"
carrier = "water"

[[balance]]
name = "electricity"
carrier = "electricity"
main = ["incomer/energy"]
branches = ["mill/energy", "fans/energy", "dryer/energy"]
"""

Sample = tuple[int, float | int | None] | tuple[int, float | int | None, int]
"""Time [µs UTC], value (None: bad), and a quality if it is neither good nor bad."""


def counter(
    device: str,
    tag: str = "energy",
    *,
    unit: str = "kWh",
    quantity: str = "active_energy",
    medium: Medium = "electricity",
    modulus: float | None = None,
    max_rate_per_h: float | None = None,
    scale: float = 0.001,
    gap_limit_s: float = 300,
    value_type: ValueType = "float",
    kind: Kind = "counter",
) -> Point:
    """A counter that is read every minute."""
    return Point(
        device=device,
        tag=tag,
        quantity=quantity,
        unit=unit,
        kind=kind,
        medium=medium,
        value_type=value_type,
        poll_interval_s=60,
        gap_limit_s=gap_limit_s,
        scale=scale,
        modulus=modulus,
        max_rate_per_h=max_rate_per_h,
    )


POINTS = (
    counter("incomer"),
    counter("mill"),
    counter("fans"),
    counter("dryer"),
    counter("dryer", "coal", unit="t", quantity="mass", medium="coal"),
    counter("scale", "mass", unit="t", quantity="mass", medium="material"),
    counter("pumps", "volume", unit="m3", quantity="volume", medium="water"),
    counter("mill", "power", unit="kW", quantity="active_power", kind="gauge"),
)


class Row(NamedTuple):
    """An account as stored."""

    process: str
    carrier: str
    period: str
    start_us: int
    revision: int
    current: bool
    final: bool
    use: float | None
    unit: str
    coverage: float
    estimated_share: float | None
    output: float | None
    unit_use: float | None
    co2_kg: float | None
    factor: dict[str, Any] | None
    flags: list[str]
    notes: list[str]
    inputs: dict[str, Any]


_ROWS = """
SELECT process, carrier, period, (extract(epoch FROM start) * 1000000)::bigint, revision, current, final, use::float8,
       unit, coverage, estimated_share, output::float8, unit_use, co2_kg::float8, factor, flags, notes, inputs
FROM account ORDER BY process, carrier, period, start, revision
"""


class SmallPlant:
    """Writes readings by the real path of ingest, and settles on demand.

    Parameters
    ----------
    connect
        Opens connections to a migrated database, in autocommit mode.
    text
        The plant model.
    points
        What the agent announces.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        text: str = MODEL,
        points: Sequence[Point] = POINTS,
        config: SettleConfig | None = None,
        *,
        born: bool = True,
    ) -> None:
        self.conn = connect()
        self.config = config or SettleConfig()
        self.text = text
        self.agent = FakeAgent(TENANT, "gw1", points, SITE)
        self.flush = Flush(connect(), 7, 600, Signals())
        self.rounds = self.new_rounds()
        if born:
            self.announce()

    def announce(self, points: Sequence[Point] | None = None) -> None:
        """Send a birth."""
        if points is not None:
            self.agent.schema = FakeAgent(points=points, site=SITE).schema
        self.flush.store([self.agent.birth().parsed()])

    def new_rounds(self, text: str | None = None) -> Rounds:
        """Settle as after a restart, with this or another plant model."""
        text = self.text if text is None else text
        rounds = Rounds([Source(TENANT, "plant.toml", text, model.load(text, "plant.toml"))], self.config)
        rounds.prepare(self.conn)
        return rounds

    def send(self, name: str, samples: Iterable[Sample]) -> None:
        """Send readings of one point in one batch."""
        self.send_many([(name, samples)])

    def send_many(self, parts: Iterable[tuple[str, Iterable[Sample]]]) -> None:
        """Send readings of some points in one batch."""
        schema = self.agent.schema
        index = {f"{point.device}/{point.tag}": n for n, point in enumerate(schema.points)}
        parts = [(name, list(samples)) for name, samples in parts]
        base_us = min(sample[0] for _, samples in parts for sample in samples)
        columns: dict[ValueType, Columns] = {}
        for value_type in ("float", "int"):
            rows = [
                (index[name], sample[0] - base_us, sample[1], _quality(sample))
                for name, samples in parts
                if schema.points[index[name]].value_type == value_type
                for sample in samples
            ]
            if rows:
                columns[value_type] = Columns(*(list(column) for column in zip(*rows, strict=True)))
        self.flush.store([self.agent.batch(columns, base_us).parsed()])

    def settle(self) -> None:
        """Do rounds until there is nothing left to do."""
        done = -1
        while done < self.rounds.totals.rounds:
            done = self.rounds.totals.rounds
            self.rounds.run(self.conn)

    def rows(self, **fits: Any) -> list[Row]:
        """Accounts, all revisions; only those whose attributes fit."""
        found = [Row(*row) for row in self.conn.execute(_ROWS).fetchall()]
        return [row for row in found if all(getattr(row, name) == value for name, value in fits.items())]

    def account(self, process: str, carrier: str = "electricity", period: str = "hour", start_us: int = 0) -> Row:
        """The current revision of one account; `start_us` counts from `MIDNIGHT_US`."""
        (row,) = self.rows(
            process=process, carrier=carrier, period=period, start_us=MIDNIGHT_US + start_us, current=True
        )
        return row


def _quality(sample: Sample) -> int:
    if len(sample) == 3:
        return sample[2]
    return 130 if sample[1] is None else 0


def steady(
    per_hour: float, first_us: int, last_us: int, start: float = 1000.0, every_us: int = MINUTE_US
) -> list[tuple[int, float]]:
    """Readings of a counter that rises evenly; times count from `MIDNIGHT_US`, both ends included."""
    return [
        (MIDNIGHT_US + at_us, start + per_hour * at_us / HOUR_US) for at_us in range(first_us, last_us + 1, every_us)
    ]


def write_plant(directory: Path, text: str = MODEL) -> Path:
    """A plant model's file."""
    file = directory / "plant.toml"
    file.write_text(text, encoding="utf-8")
    return file

"""Fleet files for tests: the cement plant, and a small one whose parts a test may change."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

from device_sims.config import FleetConfig
from device_sims.plant.plant import Plant
from protocols import config
from protocols.timebase import US

CEMENT = Path(__file__).resolve().parents[2] / "deploy" / "plants" / "cement"
HOUR = 3600 * US

SMALL = """
[plant]
name = "small"
timezone = "Europe/Berlin"
seed = 7
grid_s = 30

[clock]
origin = "2024-03-05T12:00:00+01:00"
speed = 600

[[step]]
name = "clinker"

[[step.machine]]
name = "kiln"
rate_per_h = 100.0
ramp_minutes = 20

[[step.machine.stop]]
from = "23:10"
minutes = [100, 130]
jitter_minutes = 30

[[step.machine.stop]]
minutes = [10, 200]
probability = 0.5

[[use]]
name = "power"
of = ["clinker"]
unit = "kWh"

[[use.period]]
from = "2024-03-05"
specific_use = 60.0

[[use.period]]
from = "2024-03-06"
specific_use = 58.5

[[use.meter]]
name = "drive"
share = 0.7
idle = 120.0

[[use.meter]]
name = "fans"
share = 0.3
idle = 30.0
fixed = 0.5

[[use]]
name = "heat"
of = ["clinker"]
unit = "kWh"

[[use.period]]
from = "2024-03-05"
specific_use = 55.0

[[use.meter]]
name = "generator"

[[use]]
name = "air"
of = ["clinker"]
unit = "Nm3"

[[use.period]]
from = "2024-03-05"
specific_use = 30.0

[[use.meter]]
name = "air"
idle = 200.0

[[use]]
name = "water"
of = ["clinker"]
unit = "m3"

[[use.period]]
from = "2024-03-05"
specific_use = 0.3

[[use.meter]]
name = "water"
idle = 1.0

[main]
name = "incomer"
export_name = "incomer_export"
loss_name = "loss"
branches = ["drive", "fans"]
generation = ["generator"]
loss = 0.02
loss_at_rated = 0.03
rated = 8_000.0

[[model]]
name = "odd_meter"
medium = "electricity"
word_order = "little"
byte_order = "little"

[model.limits]
max_registers = 40

[[model.field]]
name = "active_energy_import"
quantity = "active_energy"
unit = "MWh"
kind = "counter"
table = "input"
address = 100
type = "uint32"
scale = 0.0001
modulus = 1_000

[[model.field]]
name = "active_power"
quantity = "active_power"
unit = "W"
kind = "gauge"
table = "input"
address = 110
type = "float64"

[[model]]
name = "bit_scale"
medium = "material"

[[model.field]]
name = "belt_running"
quantity = "running"
unit = "1"
kind = "state"
table = "discrete"
address = 5
type = "bool"

[[model.field]]
name = "mass"
quantity = "mass"
unit = "t"
kind = "counter"
table = "holding"
address = 0
type = "float64"
modulus = 100_000

[[gateway]]
name = "hall"
host = "127.0.0.1"
port = 0

[[gateway.device]]
name = "incomer"
unit_id = 1
kind = "electricity"
model = "siemens_pac2200"
series = { import = "incomer", export = "incomer_export" }
start = { active_energy_import = 4_812_345_670.0 }
options = { voltage_v = 6_000, power_factor = 0.93 }

[[gateway.device]]
name = "drive"
unit_id = 2
kind = "electricity"
model = "odd_meter"
start = { active_energy_import = 999.9 }

[[gateway.device]]
name = "fans"
unit_id = 3
kind = "electricity"
model = "eastron_sdm630"
start = { active_energy_import = 1_000.0 }
holes = "refuse"

[[gateway.device]]
name = "generator"
unit_id = 4
kind = "electricity"
model = "abb_b23"
series = { export = "generator" }

[[gateway.device]]
name = "air"
unit_id = 5
kind = "compressed_air"
model = "suto_s418"

[[gateway.device]]
name = "water"
unit_id = 6
kind = "water"
model = "siemens_mag6000"

[[gateway.device]]
name = "scale"
unit_id = 7
kind = "belt_scale"
model = "bit_scale"
series = { mass = "clinker" }
start = { mass = 99_990.0 }

[[opcua]]
name = "dcs"
host = "127.0.0.1"
port = 0
tick_ms = 20

[[opcua.node]]
id = "kiln.clinker_total"
value = "total"
of = "clinker"
start = 1_000.0

[[opcua.node]]
id = "kiln.clinker_rate"
value = "rate"
of = "clinker"

[[opcua.node]]
id = "kiln.line.running"
value = "running"
of = "kiln"
"""


def parsed(text: str = SMALL, **environment: str) -> FleetConfig:
    """A fleet file that was checked."""
    return config.parse(text, FleetConfig, "fleet.toml", environment)


def small(*changes: tuple[str, str]) -> FleetConfig:
    """The small fleet with parts of its text replaced; each part must be there."""
    text = SMALL
    for old, new in changes:
        assert old in text, f"{old!r} is not in the small fleet"
        text = text.replace(old, new)
    return parsed(text)


def modbus_only(*changes: tuple[str, str]) -> FleetConfig:
    """The small fleet without its OPC-UA server, which takes its time to start and stop."""
    return small(*changes).model_copy(update={"opcua": ()})


def cement(origin: str = "2022-06-14T00:00:00+08:00", speed: float = 1.0, host: str = "127.0.0.1") -> FleetConfig:
    """The cement plant's fleet."""
    return parsed(
        (CEMENT / "fleet.toml").read_text(encoding="utf-8"),
        METERCARBON_CLOCK_ORIGIN=origin,
        METERCARBON_CLOCK_SPEED=str(speed),
        PLANT_HOST=host,
    )


def plant(fleet_config: FleetConfig, first_day: str = "2024-03-05") -> Plant:
    """The plant of a fleet, from a day on."""
    return Plant(fleet_config, date.fromisoformat(first_day))


def us(iso: str) -> int:
    """Time [µs UTC] from ISO 8601 with offset."""
    return round(datetime.fromisoformat(iso).astimezone(UTC).timestamp() * US)

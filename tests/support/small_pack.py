"""A plant pack of five meters and a DCS, small enough to run beside other tests; a test may make meters faulty."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from deploy.local.broker import Broker
from deploy.local.stack import Setting, Stack, running_stack
from tests.support.plants import FIRST, plant_host

METERS: dict[str, tuple[str, str, str]] = {
    "mill": ("eastron_sdm630", "electricity", "active_energy_import"),
    "fans": ("abb_b23", "electricity", "active_energy_import"),
    "kiln": ("siemens_pac2200", "electricity", "active_energy_import"),
    "packer": ("carlogavazzi_em340", "electricity", "active_energy_import"),
    "pumps": ("siemens_mag6000", "water", "volume"),
}
"""Device → model, kind and tag of its counter. Each has a process of its own name."""
SITE = "small"
TENANT = "demo"

_PLANT = """
[plant]
name = "small"
timezone = "Asia/Shanghai"
seed = 7
grid_s = 30
[clock]
origin = "${METERCARBON_CLOCK_ORIGIN:-}"
anchor_us = "${METERCARBON_CLOCK_ANCHOR_US:-0}"
speed = "${METERCARBON_CLOCK_SPEED:-1}"
[[step]]
name = "clinker"
[[step.machine]]
name = "furnace"
rate_per_h = 100.0
ramp_minutes = 1
[[use]]
name = "power"
of = ["clinker"]
unit = "kWh"
[[use.period]]
from = "2022-06-13"
specific_use = 60.0
[[use.meter]]
name = "mill"
share = 0.4
[[use.meter]]
name = "fans"
share = 0.1
[[use.meter]]
name = "kiln"
share = 0.3
[[use.meter]]
name = "packer"
share = 0.2
[[use]]
name = "water"
of = ["clinker"]
unit = "m3"
[[use.period]]
from = "2022-06-13"
specific_use = 0.3
[[use.meter]]
name = "pumps"
[[gateway]]
name = "hall"
host = "${PLANT_HOST}"
port = 15020
"""

_DCS = """
[[opcua]]
name = "dcs"
host = "${PLANT_HOST}"
port = 14840
tick_ms = 50
[[opcua.node]]
id = "clinker_total"
value = "total"
of = "clinker"
start = 1000.0
"""

_AGENT = """
[agent]
tenant = "demo"
name = "gw1"
site = "small"
[clock]
origin = "${METERCARBON_CLOCK_ORIGIN:-}"
anchor_us = "${METERCARBON_CLOCK_ANCHOR_US:-0}"
speed = "${METERCARBON_CLOCK_SPEED:-1}"
[buffer]
path = "${METERCARBON_RUN_DIR}/gw1.buffer"
[mqtt]
host = "${MQTT_HOST}"
port = "${MQTT_PORT}"
version = "${MQTT_VERSION}"
[polling]
poll_interval_s = 60
gap_limit_s = 1200
max_time_uncertainty = 0.3
probe_interval_s = 0.5
[[connection]]
name = "hall"
protocol = "modbus-tcp"
host = "${PLANT_HOST}"
port = 15020
timeout_s = 0.2
[[connection]]
name = "dcs"
protocol = "opcua"
endpoint = "opc.tcp://${PLANT_HOST}:14840"
[[device]]
name = "dcs"
connection = "dcs"
[[device.tag]]
name = "clinker_total"
node = "ns=2;s=clinker_total"
quantity = "mass"
unit = "t"
kind = "counter"
medium = "material"
"""

_INGEST = """
[store]
dsn = '''${METERCARBON_DSN}'''
[mqtt]
host = "${MQTT_HOST}"
port = "${MQTT_PORT}"
version = "${MQTT_VERSION}"
client_id = "${INGEST_CLIENT_ID:-small-ingest}"
[settle]
poll_interval_s = 0.3
[[settle.plant]]
tenant = "demo"
file = "plant.toml"
[api]
host = "${METERCARBON_API_HOST}"
port = "${METERCARBON_API_PORT}"
tenant = "demo"
"""

_MODEL = """
[site]
name = "small"
timezone = "Asia/Shanghai"
region = "河北"
[[product]]
name = "clinker"
unit = "t"
"""


def write_pack(directory: Path, faults: Mapping[str, str] | None = None) -> Path:
    """Write the pack's files.

    Parameters
    ----------
    directory
        Where; made if missing.
    faults
        Device → its ``fault`` in fleet.toml, an inline table.
    """
    directory.mkdir(parents=True, exist_ok=True)
    fleet, agent, model = _PLANT, _AGENT, _MODEL
    for unit_id, (name, (meter, kind, tag)) in enumerate(METERS.items(), 1):
        fault = (faults or {}).get(name)
        fleet += f'[[gateway.device]]\nname = "{name}"\nunit_id = {unit_id}\nkind = "{kind}"\nmodel = "{meter}"\n'
        fleet += f"fault = {fault}\n" if fault else ""
        agent += f'[[device]]\nname = "{name}"\nconnection = "hall"\nunit_id = {unit_id}\nmodel = "{meter}"\n'
        agent += f'tags = ["{tag}"]\n'
        model += f'[[process]]\nname = "{name}"\n[[process.meter]]\npoint = "{name}/{tag}"\ncarrier = "{kind}"\n'
        model += '[[process.output]]\npoint = "dcs/clinker_total"\nproduct = "clinker"\n'
    texts = {"fleet.toml": fleet + _DCS, "agent.toml": agent, "ingest.toml": _INGEST, "plant.toml": model}
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def small_stack(
    directory: Path,
    dsn: str,
    broker: Broker,
    speed: float,
    faults: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> AbstractContextManager[Stack]:
    """The running small plant with agent and cloud side, on a given database and broker."""
    pack = write_pack(directory / "pack", faults)
    return running_stack(
        Setting(
            pack, directory, dsn, broker, FIRST, speed, plant_host=plant_host(), environment=dict(environment or {})
        )
    )

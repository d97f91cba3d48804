"""Wrong fleet files are refused before anything is opened, with the place, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_sims.__main__ import main
from protocols.clock import ClockConfig
from protocols.timebase import REAL_TIME, US
from tests.support import fleets

DRIVE = 'name = "drive"\nunit_id = 2'

WRONG = {
    "an unknown key": (("seed = 7", "sead = 7"), ["plant.sead", "unknown key"]),
    "an unknown timezone": (("Europe/Berlin", "Europe/Atlantis"), ["plant.timezone", "Europe/Atlantis"]),
    "a grid that fits no quarter": (("grid_s = 30", "grid_s = 7"), ["plant.grid_s", "7"]),
    "a start after the origin": (
        ("seed = 7", 'seed = 7\nstart = "2025-01-01"'),
        ["plant.start 2025-01-01", "up to 2024-03-05"],
    ),
    "an origin without offset": (("12:00:00+01:00", "12:00:00"), ["clock", "has no offset"]),
    "a clock that is too fast": (("speed = 600", "speed = 1e9"), ["clock.speed"]),
    "a rate without end": (("rate_per_h = 100.0", "rate_per_h = inf"), ["machine 'kiln'.rate_per_h", "finite"]),
    "a start that is no number": (("start = 1_000.0", "start = nan"), ["node", "start", "finite"]),
    "shares that are not 1": (("share = 0.3", "share = 0.4"), ["use 'power'", "add up to 1.1", "allowed: 1"]),
    "periods out of order": (('"2024-03-06"', '"2024-03-04"'), ["use 'power'", "2024-03-05, 2024-03-04", "ascending"]),
    "a use of something unknown": (
        ('name = "heat"\nof = ["clinker"]', 'name = "heat"\nof = ["bread"]'),
        ["use 'heat'.of", "'bread' is unknown", "clinker"],
    ),
    "a meter that follows something unknown": (
        ('name = "generator"\n\n', 'name = "generator"\nfollows = ["mill"]\n\n'),
        ["use 'heat'.meter 'generator'.follows", "'mill' is unknown", "kiln"],
    ),
    "a series twice": (('name = "air"\nidle', 'name = "fans"\nidle'), ["use 'air'.meter 'fans'", "exists already"]),
    "a branch that is unknown": (('["drive", "fans"]', '["drive", "van"]'), ["main 'incomer'", "'van' is unknown"]),
    "branches of different units": (('["drive", "fans"]', '["drive", "air"]'), ["main 'incomer'", "Nm3, kWh"]),
    "an unknown kind": (
        (f'{DRIVE}\nkind = "electricity"', f'{DRIVE}\nkind = "steam"'),
        ["gateway 'hall'.device 'drive'", "kind 'steam'", "belt_scale, compressed_air, electricity, water"],
    ),
    "an unknown model": (
        ('odd_meter"\nstart', 'even_meter"\nstart'),
        ["device 'drive'.model", "even_meter", "abb_b23", "bit_scale"],
    ),
    "an unknown series": (
        ('series = { export = "generator" }', 'series = { export = "sun" }'),
        ["device 'generator'.series", "'sun'", "known: clinker"],
    ),
    "an unknown role": (
        ('series = { export = "generator" }', 'series = { sideways = "generator" }'),
        ["device 'generator'", "role 'sideways'", "import, export"],
    ),
    "a series of another unit": (
        ('series = { export = "generator" }', 'series = { export = "air" }'),
        ["device 'generator'.series export", "'air' is in Nm3", "allowed: kWh"],
    ),
    "a start on a gauge": (
        ("start = { mass = 99_990.0 }", "start = { belt_running = 1 }"),
        ["device 'scale'.start", "'belt_running' is not a counter", "allowed: mass"],
    ),
    "a start that does not fit the register": (
        (
            'series = { export = "generator" }',
            'series = { export = "generator" }\nstart = { active_energy_export = -5.0 }',
        ),
        ["device 'generator'.field 'active_energy_export'", "-500", "does not fit uint64"],
    ),
    "a modulus that is no whole count": (
        ("start = { active_energy_import = 999.9 }", "modulus = { active_energy_import = 0.00015 }"),
        ["device 'drive'.modulus active_energy_import", "0.00015", "multiples of 0.0001"],
    ),
    "a wrong option": (
        ("power_factor = 0.93", "power_factor = 1.93"),
        ["device 'incomer'", "options: power_factor", "1.93"],
    ),
    "an unknown option": (("power_factor = 0.93", "colour = 1"), ["device 'incomer'", "options: colour"]),
    "a unit id twice": ((DRIVE, 'name = "drive"\nunit_id = 3'), ["gateway 'hall'", "two devices with unit_id '3'"]),
    "a unit id out of range": ((DRIVE, 'name = "drive"\nunit_id = 256'), ["device 'drive'.unit_id", "256"]),
    "a device twice": (('name = "fans"\nunit_id', 'name = "drive"\nunit_id'), ["two devices 'drive'"]),
    "a name that is no name": (('name = "water"\nunit_id', 'name = "wa/ter"\nunit_id'), ["wa/ter", "letters, digits"]),
    "a field of a local model that overlaps": (
        ("address = 110", "address = 101"),
        ["model 'odd_meter'", "overlap at input"],
    ),
    "a field with a wrong unit": (
        ('unit = "MWh"', 'unit = "t"'),
        ["model 'odd_meter'", "'t' does not fit quantity 'active_energy'"],
    ),
    "a fault with an end before its start": (
        (DRIVE, DRIVE + '\nfault = { kind = "nan", from = "2024-03-06T00:00Z", to = "2024-03-05T00:00Z" }'),
        ["device 'drive'.fault", "is not before"],
    ),
    "a fault without offset": (
        (DRIVE, DRIVE + '\nfault = { kind = "nan", from = "2024-03-06T00:00" }'),
        ["device 'drive'.fault", "has no UTC offset"],
    ),
    "an unknown fault": ((DRIVE, DRIVE + '\nfault = { kind = "smoke" }'), ["device 'drive'.fault.kind", "smoke"]),
    "a stop that is too long": (
        ("minutes = [10, 200]", "minutes = [10, 2000]"),
        ["machine 'kiln'", "minutes [10.0, 2000.0]"],
    ),
    "two tick lengths": (("tick_ms = 20", "tick_ms = 20\ntick_plant_s = 5"), ["opcua 'dcs'", "exactly one"]),
    "a node of an unknown series": (
        ('value = "rate"\nof = "clinker"', 'value = "rate"\nof = "dust"'),
        ["server 'dcs'.node 'kiln.clinker_rate'", "'dust'"],
    ),
    "a node of an unknown machine": (
        ('of = "kiln"', 'of = "oven"'),
        ["server 'dcs'.node 'kiln.line.running'", "'oven'", "known: kiln"],
    ),
    "a node twice": (("kiln.clinker_rate", "kiln.clinker_total"), ["opcua 'dcs'", "two nodes 'kiln.clinker_total'"]),
    "a start on a rate": (('value = "rate"', 'value = "rate"\nstart = 1.0'), ["kiln.clinker_rate", "on totals"]),
    "an unknown server kind": (
        ('name = "dcs"\n', 'name = "dcs"\nkind = "plc"\n'),
        ["opcua 'dcs'", "kind 'plc'", "dcs"],
    ),
    "a machine twice": (
        (
            '[[step]]\nname = "clinker"',
            '[[step]]\nname = "x"\n[[step.machine]]\nname = "kiln"\nrate_per_h = 1\n[[step]]\nname = "clinker"',
        ),
        ["two machines 'kiln'"],
    ),
    "two listeners at one place": (
        (
            'name = "dcs"\nhost = "127.0.0.1"\nport = 0\ntick_ms = 20',
            'name = "dcs"\nport = 4000\ntick_ms = 20\n[[opcua.node]]\nid = "x"\nvalue = "rate"\nof = "clinker"\n'
            '[[opcua]]\nname = "plc"\nport = 4000\ntick_ms = 20',
        ),
        ["two listeners at '127.0.0.1:4000'"],
    ),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_wrong_fleet_is_refused_with_the_place_and_what_is_allowed(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old, new), expected = WRONG[what]
    assert old in fleets.SMALL
    file = tmp_path / "fleet.toml"
    file.write_text(fleets.SMALL.replace(old, new, 1), encoding="utf-8")
    assert main(["check-config", str(file)]) == 2
    message = capsys.readouterr().err
    for part in expected:
        assert part in message, message
    assert "Traceback" not in message


def test_a_fleet_that_serves_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(fleets.SMALL[: fleets.SMALL.index("[[model]]")], encoding="utf-8")
    assert main(["check-config", str(file)]) == 2
    assert "neither gateway nor opcua" in capsys.readouterr().err


def test_without_an_origin_plant_time_is_real_time() -> None:
    assert ClockConfig.model_validate({"origin": ""}).time_base(5) == REAL_TIME
    assert (
        fleets.parsed(
            fleets.SMALL.replace("[clock]", "[log]").replace("origin =", "#").replace("speed =", "#")
        ).clock.origin
        is None
    )


def test_the_clock_is_the_contracts_three_numbers() -> None:
    clock = ClockConfig.model_validate({"origin": "2022-06-14T00:00:00+08:00", "anchor_us": "1000", "speed": "1440"})
    base = clock.time_base(77)
    assert (base.origin_us, base.anchor_us, base.speed) == (fleets.us("2022-06-13T16:00Z"), 1000, 1440.0)
    assert base.plant_us(1000 + US) == base.origin_us + 1440 * US
    assert clock.model_copy(update={"anchor_us": 0}).time_base(77).anchor_us == 77

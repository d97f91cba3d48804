"""A wrong configuration is refused by its program before anything connects, and the error says what to change."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

import accounting.__main__
import cloud_ingest.__main__
import device_sims.__main__
import edge_agent.__main__
from tests.support.plants import plant_host
from tests.support.small_pack import write_pack

MAIN: dict[str, Callable[[Sequence[str]], int]] = {
    "agent.toml": edge_agent.__main__.main,
    "fleet.toml": device_sims.__main__.main,
    "ingest.toml": cloud_ingest.__main__.main,
    "plant.toml": accounting.__main__.main,
}
PACKAGE = {"agent.toml": "edge_agent", "fleet.toml": "device_sims", "ingest.toml": "cloud_ingest"}

TAG = """
[[device]]
name = "oven"
connection = "hall"
unit_id = 9
[[device.tag]]
name = "hot"
quantity = "temperature"
unit = "degC"
kind = "gauge"
table = "holding"
address = 100
type = "uint32"
"""
SECOND_TAG = """
[[device.tag]]
name = "warm"
quantity = "temperature"
unit = "degC"
kind = "gauge"
table = "holding"
address = 101
type = "uint16"
"""
MODEL = """
[[model]]
name = "odd"
medium = "electricity"
[[model.field]]
name = "active_energy_import"
quantity = "active_energy"
unit = "kWh"
kind = "counter"
table = "holding"
address = 100
type = "uint32"
[[gateway]]
"""
SECOND_FIELD = """
[[model.field]]
name = "active_power"
quantity = "active_power"
unit = "kW"
kind = "gauge"
table = "holding"
address = 101
type = "uint16"
[[gateway]]
"""


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text, f"{old!r} is not in the file"
        return text.replace(old, new, 1)

    return change


def appended(more: str) -> Callable[[str], str]:
    return lambda text: text + more


WRONG: dict[str, tuple[str, Callable[[str], str], tuple[str, ...]]] = {
    # File, what is wrong in it, and what the error must say: place, value, what is allowed.
    "agent: unknown key": (
        "agent.toml",
        replaced('tags = ["active_energy_import"]', 'tags = ["active_energy_import"]\ntypo = 1'),
        ("device 'mill'.typo", "unknown key", "allowed keys"),
    ),
    "agent: overlapping tags": (
        "agent.toml",
        appended(TAG + SECOND_TAG),
        ("device 'oven'.tag 'warm'", "holding 101 overlaps tag 'hot' at holding 100 to 101", "allowed: "),
    ),
    "agent: register beyond the last": (
        "agent.toml",
        appended(TAG.replace("address = 100", "address = 70000")),
        ("device 'oven'.tag 'hot'.address", "70000", "less than or equal to 65535"),
    ),
    "agent: value that reaches beyond the last register": (
        "agent.toml",
        appended(TAG.replace("address = 100", "address = 65535")),
        ("device 'oven'.tag 'hot'", "address 65535 with 2 registers", "allowed: up to 65534"),
    ),
    "agent: unit that does not fit": (
        "agent.toml",
        appended(TAG.replace("degC", "kWh")),
        ("device 'oven'.tag 'hot'", "unit 'kWh'", "temperature", "allowed: "),
    ),
    "agent: two devices of one name": (
        "agent.toml",
        replaced('name = "fans"', 'name = "mill"'),
        ("device 'mill'", "2 have this name", "allowed: one of each name"),
    ),
    "agent: heartbeat longer than the gap limit": (
        "agent.toml",
        appended(TAG.replace("unit_id = 9", "unit_id = 9\nheartbeat_s = 1500")),
        ("device 'oven'.tag 'hot'", "heartbeat_s 1500 is longer than gap_limit_s 1200", "allowed: up to 1200"),
    ),
    "fleet: unknown key": (
        "fleet.toml",
        replaced('model = "abb_b23"', 'model = "abb_b23"\ntypo = 1'),
        ("gateway 'hall'.device 'fans'.typo", "unknown key", "allowed keys"),
    ),
    "fleet: overlapping fields": (
        "fleet.toml",
        replaced("[[gateway]]\n", MODEL.replace("[[gateway]]\n", "") + SECOND_FIELD),
        ("model 'odd'", "'active_energy_import' and 'active_power' overlap at holding 101", "allowed: "),
    ),
    "fleet: register beyond the last": (
        "fleet.toml",
        replaced("[[gateway]]\n", MODEL.replace("address = 100", "address = 65536")),
        ("model 'odd'.field 'active_energy_import'.address", "65536", "less than or equal to 65535"),
    ),
    "fleet: unit that does not fit": (
        "fleet.toml",
        replaced("[[gateway]]\n", MODEL.replace('"kWh"', '"m3"')),
        ("model 'odd'", "'active_energy_import'", "unit 'm3'", "allowed: "),
    ),
    "fleet: meter of a series in another unit": (
        "fleet.toml",
        replaced('name = "fans"\nunit_id = 2', 'name = "fans"\nunit_id = 2\nseries = { import = "pumps" }'),
        ("device 'fans'.series import", "'pumps' is in m3", "allowed: kWh"),
    ),
    "fleet: two devices of one name": (
        "fleet.toml",
        replaced('name = "fans"\nunit_id = 2', 'name = "mill"\nunit_id = 2'),
        ("two devices", "'mill'", "allowed: "),
    ),
    "ingest: unknown key": (
        "ingest.toml",
        replaced("[store]", "[store]\ntypo = 1"),
        ("store.typo", "unknown key", "allowed keys"),
    ),
    "ingest: port out of range": (
        "ingest.toml",
        replaced('port = "${MQTT_PORT}"', "port = 70000"),
        ("mqtt.port", "70000", "less than or equal to 65535"),
    ),
    "plant: unknown key": (
        "plant.toml",
        replaced('carrier = "electricity"', 'carrier = "electricity"\ntypo = 1'),
        ("process 'mill'.meter", "typo", "allowed"),
    ),
    "plant: two processes of one name": (
        "plant.toml",
        replaced('[[process]]\nname = "fans"', '[[process]]\nname = "mill"'),
        ("process", "'mill'", "allowed"),
    ),
}


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A right pack, with a listener at each address that it names."""
    with ExitStack() as stack:
        host = plant_host()
        addresses = [(host, 15020), (host, 14840), ("127.0.0.1", 0), ("127.0.0.1", 0), ("127.0.0.1", 0)]
        listeners = [stack.enter_context(socket.create_server(address)) for address in addresses]
        mqtt, database, api = (listener.getsockname()[1] for listener in listeners[2:])
        monkeypatch.setenv("PLANT_HOST", host)
        monkeypatch.setenv("METERCARBON_RUN_DIR", str(tmp_path / "run"))
        monkeypatch.setenv("MQTT_HOST", "127.0.0.1")
        monkeypatch.setenv("MQTT_PORT", str(mqtt))
        monkeypatch.setenv("MQTT_VERSION", "5")
        monkeypatch.setenv("METERCARBON_DSN", f"postgresql://nobody@127.0.0.1:{database}/nothing")
        monkeypatch.setenv("METERCARBON_API_HOST", "127.0.0.1")
        monkeypatch.setenv("METERCARBON_API_PORT", str(api))
        yield write_pack(tmp_path / "pack")
        for listener in listeners:
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", MAIN)
def test_the_right_file_is_accepted(pack: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert MAIN[file](["check-config", str(pack / file)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_and_the_error_says_what_to_change(
    pack: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, change, expected = WRONG[case]
    path = pack / file
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert MAIN[file](["check-config", str(path)]) == 2
    error = capsys.readouterr().err
    assert file in error
    for part in expected:
        assert part in error, error


def test_the_cloud_side_refuses_a_wrong_plant_model_too(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant = pack / "plant.toml"
    plant.write_text(plant.read_text(encoding="utf-8").replace('carrier = "electricity"', 'carrier = "steam"', 1))
    assert cloud_ingest.__main__.main(["check-config", str(pack / "ingest.toml")]) == 2
    error = capsys.readouterr().err
    for part in ("plant.toml", "process 'mill'", "carrier 'steam' is unknown", "known: "):
        assert part in error, error


@pytest.mark.parametrize("file", PACKAGE)
def test_run_with_a_wrong_file_ends_at_once_and_connects_to_nothing(pack: Path, file: str) -> None:
    path = pack / file
    path.write_text("typo = 1\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", PACKAGE[file], "run", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert f"{file}: typo: unknown key" in done.stderr
    assert done.stdout == ""

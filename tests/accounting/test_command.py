from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from accounting import model, offline
from accounting.__main__ import main
from accounting.errors import ReadingsError

START = datetime(2022, 6, 14, tzinfo=ZoneInfo("Asia/Shanghai"))
RATES = {
    "aux/active_energy_import": 100.0,
    "furnace/active_energy_import": 500.0,
    "burner/normal_volume": 20.0,
    "scale/mass": 3.0,
    "not/in_the_plant": 1.0,
}


def sample() -> str:
    return (Path(model.__file__).parent / "sample.toml").read_text(encoding="utf-8")


def day_of_readings() -> pl.DataFrame:
    rows = [
        (point, (START + timedelta(minutes=5 * k)).isoformat(), 1000.0 + rate * k / 12, 0)
        for k in range(24 * 12 + 1)
        for point, rate in RATES.items()
    ]
    return pl.DataFrame(rows, schema=["point", "at", "value", "quality"], orient="row")


def accounts(readings: pl.DataFrame, points: pl.DataFrame | None = None) -> pl.DataFrame:
    return offline.accounts(model.load(sample(), "sample.toml"), readings, points, "day")


def row(table: pl.DataFrame, process: str, carrier: str) -> dict[str, object]:
    return table.filter(pl.col("process") == process, pl.col("carrier") == carrier).row(0, named=True)


@pytest.fixture
def plant_file(tmp_path: Path) -> Path:
    path = tmp_path / "plant.toml"
    path.write_text(sample(), encoding="utf-8")
    return path


# Configuration


def test_the_printed_sample_passes_its_own_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["print-config"]) == 0
    printed = tmp_path / "plant.toml"
    printed.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["check-config", str(printed)]) == 0
    assert "ok: 3 processes, 7 points" in capsys.readouterr().out


def test_a_wrong_plant_model_ends_with_2_and_says_where(capsys: pytest.CaptureFixture[str], plant_file: Path) -> None:
    plant_file.write_text(sample().replace('"natural gas"', '"peat"'), encoding="utf-8")
    assert main(["check-config", str(plant_file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{plant_file}: process 'melting'.meter 'burner/normal_volume'.carrier: carrier 'peat'" in said.err


def test_a_missing_plant_model_ends_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check-config", str(tmp_path / "none.toml")]) == 2
    assert "can't be read" in capsys.readouterr().err


def test_wrong_usage_ends_with_2() -> None:
    for arguments in ([], ["fly"], ["factors", "show", "--region", "河北", "--at", "June"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_version_and_help_end_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    assert "accounting" in capsys.readouterr().out


def test_it_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "accounting", "factors", "show", "--at", "2022-06-14", "--region", "河北"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(model.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert "0.7252" in done.stdout


# Factors


def test_a_factor_is_shown_with_source_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["factors", "show", "--at", "2022-06-14", "--region", "河北"]) == 0
    said = capsys.readouterr().out
    assert "0.7252" in said
    assert "kgCO2/kWh" in said
    assert "[seen]" in said
    assert "tables " in said


def test_a_provisional_factor_is_shown_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["factors", "show", "--at", "2026", "--region", "Hebei", "--policy", "latest-published"]) == 0
    assert "[seen, provisional]" in capsys.readouterr().out


def test_a_missing_factor_ends_with_2_and_lists_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["factors", "show", "--at", "2023-07-01", "--region", "河北"]) == 2
    assert "years there are: 2021, 2022" in capsys.readouterr().err


def test_factors_are_listed_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["factors", "list", "--kind", "fuel", "--at", "2022", "--region", "河北"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 15
    assert all(line.startswith("fuel") for line in lines[1:])


# Accounts from a file


def test_a_day_of_readings_becomes_a_day_of_accounts() -> None:
    table = accounts(day_of_readings())
    foundry = row(table, "foundry", "electricity")
    assert foundry["use"] == 14_400.0
    assert (foundry["from"], foundry["until"]) == (START, START + timedelta(days=1))
    assert foundry["coverage"] == 1.0
    assert foundry["output"] == 72.0
    assert foundry["unit_use"] == 200.0
    assert foundry["co2_kg"] == pytest.approx(14_400 * 0.7252)
    assert foundry["co2_kg_per_output"] == pytest.approx(145.04)
    assert (foundry["factor_year"], foundry["factor_status"], foundry["provisional"]) == (2022, "seen", False)
    assert row(table, "melting", "natural gas")["co2_kg"] == pytest.approx(480 * 2.162188809)


def test_what_is_missing_stays_empty() -> None:
    office = row(accounts(day_of_readings()), "offices", "electricity")
    assert office["use"] is None
    assert office["co2_kg"] is None
    assert office["estimated_share"] is None
    assert office["coverage"] == 0.0


def test_bad_readings_are_left_out() -> None:
    good = day_of_readings()
    noise = pl.DataFrame(
        [
            ("aux/active_energy_import", (START + timedelta(minutes=7)).isoformat(), 9e9, 132),
            ("aux/active_energy_import", (START + timedelta(minutes=8)).isoformat(), 9e9, 66),
            ("aux/active_energy_import", (START + timedelta(minutes=9)).isoformat(), None, 0),
            ("aux/active_energy_import", (START + timedelta(minutes=9)).isoformat(), float("nan"), 0),
        ],
        schema=good.schema,
        orient="row",
    )
    assert accounts(pl.concat([good, noise])).equals(accounts(good))


def test_the_order_of_rows_does_not_matter() -> None:
    readings = day_of_readings()
    assert accounts(readings.sample(fraction=1.0, shuffle=True, seed=5)).equals(accounts(readings))


def test_of_two_rows_at_one_time_the_later_counts() -> None:
    readings = day_of_readings()
    wrong = readings.filter(pl.col("point") == "scale/mass").with_columns(pl.col("value") + 500.0)
    assert accounts(pl.concat([wrong, readings])).equals(accounts(readings))


@pytest.mark.parametrize("how", ["microseconds", "datetimes"])
def test_times_may_come_as_numbers_or_datetimes(how: str) -> None:
    readings = day_of_readings()
    times = readings["at"].str.to_datetime(time_unit="us", time_zone="UTC")
    other = readings.with_columns(times.dt.timestamp("us") if how == "microseconds" else times)
    assert accounts(other).equals(accounts(readings))


def test_points_may_be_described() -> None:
    readings = day_of_readings().with_columns(
        pl.when(pl.col("point") == "scale/mass")
        .then(((pl.col("value") - 1000 + 40) % 100) * 1000)
        .otherwise(pl.col("value"))
        .alias("value")
    )
    points = pl.DataFrame(
        [{"point": "scale/mass", "unit_factor": 1e-3, "modulus": 100_000.0, "gap_limit_s": 600, "max_rate_per_h": None}]
    )
    foundry = row(accounts(readings, points), "foundry", "electricity")
    assert foundry["output"] == pytest.approx(72.0, abs=1e-5)
    assert foundry["unit_use"] == pytest.approx(200.0, rel=1e-6)


BAD_TABLES = {
    "no column": (pl.DataFrame({"point": ["a/b"], "at": [1]}), "readings have no column 'value'"),
    "no numbers": (pl.DataFrame({"point": ["a/b"], "at": [1], "value": ["x"]}), "column 'value' is String"),
    "no offset": (
        pl.DataFrame({"point": ["a/b"], "at": ["2022-06-14T00:00:00"], "value": [1.0]}),
        "column 'at' has '2022-06-14T00:00:00'; allowed: ISO 8601 with offset",
    ),
    "no time": (pl.DataFrame({"point": ["a/b"], "at": ["todayT10Z"], "value": [1.0]}), "column 'at': "),
    "floats as time": (pl.DataFrame({"point": ["a/b"], "at": [1.5], "value": [1.0]}), "column 'at' is Float64"),
    "naive times": (
        pl.DataFrame(
            {"point": ["a/b"], "at": [datetime(2022, 6, 14, tzinfo=UTC).replace(tzinfo=None)], "value": [1.0]}
        ),
        "column 'at' is Datetime",
    ),
    "nothing valid": (
        pl.DataFrame({"point": ["a/b"], "at": [1], "value": [1.0], "quality": [128]}),
        "none of 1 readings is valid",
    ),
}


@pytest.mark.parametrize(("table", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_unusable_readings_are_refused(table: pl.DataFrame, message: str) -> None:
    with pytest.raises(ReadingsError, match=message):
        accounts(table)


def test_unknown_columns_of_points_are_refused() -> None:
    with pytest.raises(ReadingsError, match="points have columns point, gap; allowed: point, unit_factor"):
        accounts(day_of_readings(), pl.DataFrame({"point": ["a/b"], "gap": [1]}))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_command_reads_and_writes_files(plant_file: Path, tmp_path: Path, suffix: str) -> None:
    readings = tmp_path / f"readings{suffix}"
    table = day_of_readings()
    table.write_csv(readings) if suffix == ".csv" else table.write_parquet(readings)
    expected = accounts(table)
    for out in ("accounts.csv", "accounts.json", "accounts.parquet"):
        path = tmp_path / out
        assert main(["run", "--plant", str(plant_file), "--readings", str(readings), "--out", str(path)]) == 0
    assert pl.read_parquet(tmp_path / "accounts.parquet").equals(expected)
    assert json.loads((tmp_path / "accounts.json").read_text())[0]["unit_use"] == 200.0
    assert pl.read_csv(tmp_path / "accounts.csv")["unit_use"][0] == 200.0


def test_accounts_go_to_standard_output(plant_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readings = tmp_path / "readings.csv"
    day_of_readings().write_csv(readings)
    assert main(["run", "--plant", str(plant_file), "--readings", str(readings), "--level", "hour"]) == 0
    assert capsys.readouterr().out.count("foundry,hour,") == 48 + 2


@pytest.mark.parametrize(
    ("readings", "out", "message"),
    [
        ("none.csv", "a.csv", "none.csv: can't be read"),
        ("readings.txt", "a.csv", "suffix '.txt' is not allowed; allowed: .csv, .parquet"),
        ("readings.csv", "a.xlsx", "suffix '.xlsx' is not allowed; allowed: .csv, .json, .parquet"),
        ("readings.csv", "no/where/a.csv", "a.csv: can't be written"),
    ],
)
def test_files_that_cannot_be_used_end_with_1(
    plant_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], readings: str, out: str, message: str
) -> None:
    day_of_readings().write_csv(tmp_path / "readings.csv")
    arguments = ["--plant", str(plant_file), "--readings", str(tmp_path / readings), "--out", str(tmp_path / out)]
    assert main(["run", *arguments]) == 1
    assert message in capsys.readouterr().err

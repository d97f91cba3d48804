from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import cast

import pytest

from accounting.errors import FactorKindError, FactorTableError, UnknownFactorError
from accounting.factors import Factor, Kind, Library, Policy, fuel_factor, grid_factor, library, tables

FUELS = list(csv.DictReader(io.StringIO(tables.shipped()["fuels.csv"].decode())))


def test_the_exact_policy_gives_the_year_asked_for() -> None:
    factor = grid_factor("河北", 2022)
    assert (factor.value, factor.unit, factor.region, factor.year) == (0.7252, "kgCO2/kWh", "河北", 2022)
    assert factor.kind is Kind.GRID_LOCATION
    assert not factor.provisional
    assert factor.status == "seen"
    assert factor.source
    assert factor.version == library().version


def test_an_english_name_means_the_same_region() -> None:
    assert grid_factor("Hebei", 2022) == grid_factor("hebei", 2022) == grid_factor("河北", 2022)


def test_the_exact_policy_refuses_a_year_without_factor_and_lists_the_years() -> None:
    with pytest.raises(UnknownFactorError, match="河北 for 2023 under policy 'exact'; years there are: 2021, 2022"):
        grid_factor("河北", 2023)


def test_latest_published_takes_the_latest_earlier_year_and_says_so() -> None:
    factor = grid_factor("河北", 2026, "latest-published")
    assert (factor.value, factor.year, factor.provisional) == (0.7252, 2022, True)


def test_latest_published_is_not_provisional_where_the_year_has_its_factor() -> None:
    assert not grid_factor("上海", 2023, "latest-published").provisional
    assert grid_factor("上海", 2023, "latest-published") == grid_factor("上海", 2023)


@pytest.mark.parametrize("policy", ["exact", "latest-published"])
def test_no_policy_takes_a_later_year(policy: Policy) -> None:
    with pytest.raises(UnknownFactorError, match=r"for 2020 under policy .*; years there are: 2021, 2022"):
        grid_factor("河北", 2020, policy)


def test_an_unknown_region_is_an_error_that_lists_the_regions() -> None:
    with pytest.raises(UnknownFactorError, match=r"region 'Hebay' is unknown; known: 中国 \(China\), .*河北 \(Hebei\)"):
        grid_factor("Hebay", 2022)


def test_a_region_without_the_kind_is_never_given_the_nations_factor() -> None:
    with pytest.raises(UnknownFactorError, match="no 'grid residual' factor of 河北; regions there are: 中国"):
        grid_factor("河北", 2022, kind=Kind.GRID_RESIDUAL)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UnknownFactorError, match="'newest' is unknown; known: exact, latest-published"):
        grid_factor("河北", 2022, cast("Policy", "newest"))


def test_national_factors_are_those_of_the_notices() -> None:
    assert grid_factor("China", 2023).value == 0.5306
    assert grid_factor("China", 2023, kind=Kind.GRID_RESIDUAL).value == 0.6096
    assert grid_factor("China", 2023, kind=Kind.GRID_LIFE_CYCLE).unit == "kgCO2e/kWh"
    assert grid_factor("China", 2022, kind=Kind.ETS).unit == "tCO2/MWh"


def test_scope_2_of_the_worked_example() -> None:
    """10 GWh, 3 GWh of it contracted zero-carbon: 5,306 t by location, 4,267.2 t by market."""
    location = grid_factor("China", 2023).value
    residual = grid_factor("China", 2023, kind=Kind.GRID_RESIDUAL).value
    assert 10e6 * location / 1000 == pytest.approx(5306)
    assert 7e6 * residual / 1000 == pytest.approx(4267.2)
    assert 7e6 * location / 1000 == pytest.approx(3714.2)


def test_a_recalled_factor_says_so() -> None:
    assert grid_factor("China", 2022).status == "recalled"
    assert grid_factor("China", 2021).status == "seen (year recalled)"


@pytest.mark.parametrize("row", FUELS, ids=[row["fuel"] for row in FUELS])
def test_a_fuels_factor_follows_from_its_parts_and_prints_as_in_the_source(row: dict[str, str]) -> None:
    factor = fuel_factor(row["fuel"])
    parts = float(row["ncv"]) * float(row["carbon_tC_per_TJ"]) / 1000 * float(row["oxidation"]) * 44 / 12
    assert factor.value == pytest.approx(parts, rel=1e-14)
    assert f"{factor.value:.4f}" == f"{float(row['ef']):.4f}"
    assert factor.kind is Kind.FUEL


def test_an_unknown_fuel_is_an_error_that_lists_the_fuels() -> None:
    with pytest.raises(UnknownFactorError, match="no 'fuel' factor of 'peat'; there are: anthracite, bituminous coal"):
        fuel_factor("peat")
    with pytest.raises(UnknownFactorError, match="there are: clinker process Portland"):
        library().process("peat")


def test_heat_and_process_factors_are_found() -> None:
    assert (library().heat().value, library().heat().unit) == (0.11, "tCO2/GJ")
    assert library().process("clinker process Portland").value == 0.535


def test_kinds_are_never_mixed() -> None:
    footprint = grid_factor("China", 2023, kind=Kind.GRID_LIFE_CYCLE)
    with pytest.raises(FactorKindError, match="of kind 'grid life-cycle'; allowed here: grid location, grid residual"):
        footprint.require(Kind.GRID_LOCATION, Kind.GRID_RESIDUAL)
    footprint.require(Kind.GRID_LIFE_CYCLE)


def test_factors_are_selected_by_kind_region_and_year() -> None:
    found = library().select([Kind.GRID_LOCATION, Kind.HEAT], "Hebei", 2022)
    assert [(f.kind, f.region, f.year) for f in found] == [
        (Kind.GRID_LOCATION, "河北", 2022),
        (Kind.HEAT, "", None),
    ]
    assert len(library().select()) == len(library().factors)


def test_coal_equivalents_keep_their_two_bases_apart() -> None:
    electricity = {
        (f.basis, f.year): f.value for f in library().select([Kind.COAL_EQUIVALENT]) if f.substance == "electricity"
    }
    assert electricity["equal-calorific", None] == 0.1229
    assert electricity["equivalent", 2024] == 0.3024
    # The data-centre case: 10.95 GWh on either basis.
    assert 10.95e6 * electricity["equivalent (casebook)", None] / 1000 == pytest.approx(3394.5)
    assert 10.95e6 * electricity["equal-calorific", None] / 1000 == pytest.approx(1345.8, abs=0.05)


def test_every_factor_names_source_status_and_version() -> None:
    for factor in library().factors:
        assert factor.source, factor
        assert factor.status.startswith(("seen", "recalled")), factor
        assert factor.version == library().version, factor


def test_the_version_changes_with_any_table() -> None:
    files = tables.shipped()
    assert re.fullmatch(r"[0-9a-f]{12}", tables.version(files))
    for name in files:
        changed = files | {name: files[name] + b"\n"}
        assert tables.version(changed) != tables.version(files)
    assert tables.version(dict(reversed(files.items()))) == tables.version(files)


HEADER = "kind,substance,region,basis,year,value,unit,source,published,status\n"
FUEL_HEADER = "fuel,ncv,ncv_unit,carbon_tC_per_TJ,oxidation,ef,ef_unit,source,published,status\n"

BAD_ROWS = [
    (
        "grid location,electricity,河北,,2022,7252,kgCO2/kWh,notice,,seen",
        "value 7252 is out of range; allowed: 0.01 to 1.3",
    ),
    ("grid location,electricity,河北,,2022,nan,kgCO2/kWh,notice,,seen", "value nan is out of range"),
    ("grid location,electricity,河北,,2022,x,kgCO2/kWh,notice,,seen", "value 'x' is not a number"),
    ("grid location,electricity,河北,,22,0.7,kgCO2/kWh,notice,,seen", "year 22 is out of range"),
    (
        "grid location,electricity,河北,,2022,0.7,kgCO2e/kWh,notice,,seen",
        "unit 'kgCO2e/kWh' does not fit kind 'grid loc",
    ),
    ("grid mix,electricity,河北,,2022,0.7,kgCO2/kWh,notice,,seen", "kind 'grid mix'; allowed: fuel, grid location"),
    ("grid location,electricity,Mars,,2022,0.7,kgCO2/kWh,notice,,seen", "region 'Mars' is not in regions.csv"),
    ("grid location,electricity,河北,,2022,0.7,kgCO2/kWh,notice,,heard", "status 'heard'; allowed: seen, recalled"),
    ("grid location,electricity,河北,,2022,0.7,kgCO2/kWh,,,seen", "no source"),
    ("grid location,electricity,河北,,2022,0.7", "fields; allowed: one for each column"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=[message for _, message in BAD_ROWS])
def test_a_wrong_row_is_refused_with_file_and_line(row: str, message: str) -> None:
    files = {"regions.csv": tables.shipped()["regions.csv"], "mine.csv": (HEADER + row + "\n").encode()}
    with pytest.raises(FactorTableError, match=r"mine\.csv:2: .*" + re.escape(message)):
        Library(files)


def test_two_factors_for_one_thing_are_refused() -> None:
    row = "grid location,electricity,河北,,2022,0.7,kgCO2/kWh,notice,,seen\n"
    files = {"regions.csv": tables.shipped()["regions.csv"], "mine.csv": (HEADER + row * 2).encode()}
    with pytest.raises(FactorTableError, match=r"mine\.csv:3: a second row for grid location, electricity, 河北, 2022"):
        Library(files)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("peat,10,GJ/t,28,0.9,0.95,tCO2/t,x,,seen", "ef 0.95 does not follow from ncv, carbon and oxidation (0.92400)"),
        ("peat,10,GJ/kg,28,0.9,0.924,tCO2/t,x,,seen", "allowed: GJ/t with tCO2/t; GJ/1e4m3 with tCO2/1e4m3"),
        ("peat,10,GJ/t,28,0.9,0.924,tCO2/1e4m3,x,,seen", "allowed: GJ/t with tCO2/t"),
        ("peat,1000,GJ/t,28,0.9,0.924,tCO2/t,x,,seen", "ncv 1000 is out of range; allowed: 5 to 60"),
        ("peat,10,GJ/t,28,1.1,0.924,tCO2/t,x,,seen", "oxidation 1.1 is out of range; allowed: 0.8 to 1"),
    ],
)
def test_a_misprinted_fuel_is_refused(row: str, message: str) -> None:
    files = {"regions.csv": tables.shipped()["regions.csv"], "fuels.csv": (FUEL_HEADER + row + "\n").encode()}
    with pytest.raises(FactorTableError, match=re.escape(message)):
        Library(files)


def test_a_factor_cannot_be_changed() -> None:
    change = cast("Callable[[Factor, str, float], None]", setattr)
    with pytest.raises(AttributeError):
        change(grid_factor("河北", 2022), "value", 0.0)

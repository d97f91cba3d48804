"""Command line of accounting: check a plant model, look factors up, make accounts from a file."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path

from accounting import model
from accounting.errors import AccountingError, FactorError, PlantError
from accounting.factors import GRID_KINDS, POLICIES, Kind, library
from accounting.intervals import LEVELS

OK, FAILURE, USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 ok, 1 failure, 2 wrong usage, plant model or factor."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "print-config":
            sample = (resources.files("accounting") / "sample.toml").read_text(encoding="utf-8")
            sys.stdout.write(model.json_schema() if arguments.schema else sample)
        elif arguments.command == "check-config":
            plant = _load(arguments.plant)
            print(f"{arguments.plant}: ok: {len(plant.processes)} processes, {len(plant.points())} points")
        elif arguments.command == "factors":
            _factors(arguments)
        else:
            _run(arguments)
    except (PlantError, FactorError) as error:
        print(error, file=sys.stderr)
        return USAGE
    except AccountingError as error:
        print(error, file=sys.stderr)
        return FAILURE
    return OK


def _load(path: Path) -> model.Plant:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlantError(f"{path}: can't be read: {error}") from error
    return model.load(text, str(path))


def _run(arguments: argparse.Namespace) -> None:
    plant = _load(arguments.plant)
    # Only this command needs tables: the others start fast.
    from accounting import offline

    points = None if arguments.points is None else offline.read_table(arguments.points)
    table = offline.accounts(plant, offline.read_table(arguments.readings), points, arguments.level)
    offline.write_table(table, arguments.out)


def _factors(arguments: argparse.Namespace) -> None:
    if arguments.action == "show":
        found = [library().grid(arguments.region, arguments.year, arguments.policy, Kind(arguments.kind))]
    else:
        found = library().select(map(Kind, arguments.kind), arguments.region, arguments.year)
    print(f"tables {library().version}")
    for f in found:
        name = " ".join(part for part in (f.substance, f.region, f.basis) if part)
        year = "-" if f.year is None else str(f.year)
        note = ", provisional" if f.provisional else ""
        print(f"{f.kind.value:17} {name:40} {year:5} {f.value:<9.6g} {f.unit:15} {f.source} [{f.status}{note}]")


def _year(text: str) -> int:
    if not re.fullmatch(r"\d{4}(-\d{2}-\d{2})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; allowed: 2022 or 2022-06-14")
    return int(text[:4])


def _version() -> str:
    try:
        return metadata.version("metercarbon")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="accounting", description="Energy and CO₂ accounts from meter readings.")
    parser.add_argument("--version", action="version", version=f"accounting {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="make accounts from a file of readings")
    run.add_argument("--plant", type=Path, required=True, help="plant model (TOML)")
    run.add_argument("--readings", type=Path, required=True, help="CSV or Parquet: point, at, value, quality")
    run.add_argument(
        "--points", type=Path, help="CSV or Parquet: point, unit_factor, gap_limit_s, modulus, max_rate_per_h, step"
    )
    run.add_argument("--level", choices=LEVELS, default="day", help="length of the accounts' intervals")
    run.add_argument("--out", type=Path, help=".csv, .json or .parquet; CSV to standard output without it")

    check = commands.add_parser("check-config", help="check a plant model")
    check.add_argument("plant", type=Path, help="plant model (TOML)")
    printing = commands.add_parser("print-config", help="print a commented sample of a plant model")
    printing.add_argument("--schema", action="store_true", help="print the JSON Schema for editors instead")

    factors = commands.add_parser("factors", help="look factors up").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    listing = factors.add_parser("list", help="list factors with their source and status")
    listing.add_argument(
        "--kind", action="append", default=[], choices=[kind.value for kind in Kind], help="repeatable"
    )
    listing.add_argument("--region", help="such as 河北 or Hebei")
    listing.add_argument("--at", dest="year", type=_year, help="date or year")
    show = factors.add_parser("show", help="show the factor that a policy gives a region's grid")
    show.add_argument("--region", required=True, help="such as 河北 or Hebei")
    show.add_argument("--at", dest="year", type=_year, required=True, help="date or year")
    show.add_argument("--policy", choices=POLICIES, default="exact")
    show.add_argument("--kind", choices=[kind.value for kind in GRID_KINDS], default=Kind.GRID_LOCATION.value)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Command line of the simulated fleet."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path

from device_sims import runtime
from device_sims.config import FleetConfig
from device_sims.draw import draw_specific_uses
from device_sims.errors import FleetError, SimulationError
from device_sims.fleet import Fleet
from protocols import config, logs

OK, FAILURE, USAGE = 0, 1, 2

log = logging.getLogger("device_sims")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 ok, 1 failure, 2 wrong usage or configuration."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "print-config":
        sample = (resources.files("device_sims") / "sample.toml").read_text(encoding="utf-8")
        sys.stdout.write(config.json_schema(FleetConfig) if arguments.schema else sample)
        return OK
    try:
        fleet_config = _load(arguments)
        logs.configure(fleet_config.log.level, fleet_config.log.form)
        fleet = Fleet(fleet_config, arguments.truth if arguments.command == "run" else None)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return USAGE
    except FleetError as error:
        print("\n".join(f"{arguments.fleet}: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return USAGE
    if arguments.command == "check-config":
        devices = sum(len(gateway.devices) for gateway in fleet_config.gateways)
        nodes = sum(len(server.nodes) for server in fleet_config.opcua)
        print(f"{arguments.fleet}: ok: {devices} Modbus devices, {nodes} OPC-UA variables")
        return OK
    try:
        asyncio.run(runtime.run(fleet))
    except (SimulationError, OSError) as error:
        log.error("%s", error)  # noqa: TRY400 - the message says it all; a traceback would hide it
        return FAILURE
    return OK


def _load(arguments: argparse.Namespace) -> FleetConfig:
    path: Path = arguments.fleet
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise config.ConfigError(f"{path}: can't be read: {error}") from error
    fleet = config.parse(text, FleetConfig, str(path), os.environ)
    if arguments.seed is not None:
        fleet = fleet.model_copy(update={"plant": fleet.plant.model_copy(update={"seed": arguments.seed})})
    return draw_specific_uses(fleet) if arguments.draw_specific_uses else fleet


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise ValueError
    return value


def _version() -> str:
    try:
        return metadata.version("metercarbon")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="device-sims", description="Simulated plants: meters and control systems.")
    parser.add_argument("--version", action="version", version=f"device-sims {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("fleet", type=Path, help="fleet file (TOML)")
    common.add_argument("--seed", type=_seed, help="use this seed rather than the file's")
    common.add_argument(
        "--draw-specific-uses",
        action="store_true",
        help="change each specific use at random by about 30 %%; only the truth log says which hold",
    )
    run = commands.add_parser("run", parents=[common], help="serve the fleet until SIGTERM")
    run.add_argument("--truth", type=Path, metavar="PATH", help="write the truth log to this file or folder")
    commands.add_parser("check-config", parents=[common], help="check a fleet file without opening a socket")
    printing = commands.add_parser("print-config", help="print a commented sample of a fleet file")
    printing.add_argument("--schema", action="store_true", help="print the JSON Schema for editors instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())

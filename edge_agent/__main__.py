"""The command line of the edge agent. Exit codes: 0 ok, 1 failure, 2 wrong usage or configuration."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_agent import SOFTWARE, config, points, runtime
from edge_agent.points import ModbusBus, ModbusDevice, OpcUaDevice, Plan
from edge_agent.runtime import RunOptions
from protocols import logs
from protocols.config import ConfigError
from protocols.modbus.requests import Cost, data_bytes
from protocols.timebase import US


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "print-config":
        print(config.sample(), end="")
        return 0
    try:
        plan = points.load(options.config.read_text(encoding="utf-8"), options.config.name, os.environ)
    except (OSError, UnicodeDecodeError) as error:
        print(f"{options.config}: {error}", file=sys.stderr)
        return 2
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    match options.command:
        case "check-config":
            print(f"{options.config}: ok, {_summary(plan)}")
            return 0
        case "plan":
            print("\n".join(_requests(plan)))
            return 0
    logs.configure(options.log_level, options.log_format)
    return runtime.run(plan, RunOptions(options.drain_s, options.report))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-agent", description="Polls meters, buffers readings on disk and publishes them over MQTT."
    )
    parser.add_argument("--version", action="version", version=SOFTWARE)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser("run", help="run until SIGTERM or SIGINT")
    run.add_argument("config", type=Path, help="agent.toml")
    run.add_argument(
        "--drain-s", type=_seconds, default=20.0, help="how long to wait at the end until all is committed"
    )
    run.add_argument("--report", type=Path, help="file for the totals of the run, as JSON")
    run.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    run.add_argument("--log-format", choices=("text", "json"), default="text")
    check = commands.add_parser("check-config", help="check a configuration without connecting")
    check.add_argument("config", type=Path, help="agent.toml")
    plan = commands.add_parser("plan", help="print each request with its tags, without connecting")
    plan.add_argument("config", type=Path, help="agent.toml")
    commands.add_parser("print-config", help="print a commented sample configuration")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}; allowed: from 0")
    return value


def _summary(plan: Plan) -> str:
    devices = sum(len(bus.devices) for bus in plan.buses)
    requests = sum(len(device.requests) for bus in plan.buses if isinstance(bus, ModbusBus) for device in bus.devices)
    return (
        f"{len(plan.schema.points)} points of {devices} devices on {len(plan.buses)} connections, "
        f"{requests} Modbus requests per cycle"
    )


def _requests(plan: Plan) -> list[str]:
    lines = []
    for bus in plan.buses:
        settings = bus.settings
        if isinstance(bus, ModbusBus):
            lines.append(f"connection {settings.name}: {bus.settings.host}:{bus.settings.port}")
            for device in bus.devices:
                cost = Cost(bus.settings.round_trip_s, bus.settings.bytes_per_s)
                lines += _modbus_requests(plan, device, cost)
        else:
            lines.append(f"connection {settings.name}: {bus.settings.endpoint}")
            for group in bus.devices:
                lines += _nodes(plan, group)
    return lines


def _modbus_requests(plan: Plan, device: ModbusDevice, cost: Cost) -> list[str]:
    lines = [f"  device {device.name}: unit_id {device.unit_id}, every {device.timing.interval_us / US:g} s"]
    for request in device.requests:
        expected_ms = 1000 * cost.seconds(1, data_bytes(request.table, request.count))
        last = request.address + request.count - 1
        lines.append(f"    {request.table} {request.address} to {last}, about {expected_ms:.1f} ms")
        for position in request.fields:
            tag = device.tags[position]
            unit = plan.schema.points[tag.index].unit
            lines.append(f"      {tag.field.name} [{unit}]: {tag.field.address} {tag.field.type}")
    return lines


def _nodes(plan: Plan, group: OpcUaDevice) -> list[str]:
    lines = [f"  device {group.name}: every {group.timing.interval_us / US:g} s"]
    lines += [
        f"    {plan.schema.points[tag.index].tag} [{plan.schema.points[tag.index].unit}]: {tag.node}"
        for tag in group.tags
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())

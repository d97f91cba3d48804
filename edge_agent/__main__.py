"""The command line of the edge agent. Exit codes: 0 ok, 1 failure, 2 wrong usage or configuration."""

from __future__ import annotations

from edge_agent.operation import early  # noqa: F401 (handles signals from its import on)

# isort: split
import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from edge_agent import SOFTWARE, config, points, runtime
from edge_agent.commands import plan as plans
from edge_agent.points import Plan
from edge_agent.runtime import RunOptions
from protocols import logs
from protocols.config import ConfigError, json_schema
from protocols.quantities import Medium


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser(given[:1]).parse_args(given)
    if options.command == "print-config":
        print(json_schema(config.AgentConfig) if options.schema else config.sample(), end="")
        return 0
    if options.command == "import":
        return _import(options)
    if options.command == "scan":
        return _scan(options)
    try:
        plan = _load(options.config)
    except (OSError, UnicodeDecodeError) as error:
        print(f"{options.config}: {error}", file=sys.stderr)
        return 2
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    match options.command:
        case "check-config":
            print(f"{options.config}: ok, {plans.summary(plan)}")
            return 0
        case "plan":
            print("\n".join(plans.lines(plan)))
            return 0
        case "probe":
            return _probe(plan, options.device)
    logs.configure(options.log_level, options.log_format)
    return runtime.run(plan, RunOptions(options.drain_s, options.report, lambda: _load(options.config)))


def _load(path: Path) -> Plan:
    return points.load(path.read_text(encoding="utf-8"), path.name, os.environ)


def _parser(command: list[str]) -> argparse.ArgumentParser:
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
    probing = commands.add_parser("probe", help="poll every device once and show what came; sends and writes nothing")
    probing.add_argument("config", type=Path, help="agent.toml")
    probing.add_argument("--device", metavar="NAME", help="only this device")
    scanning = commands.add_parser("scan", help="find out what is on a bus or behind a server; only reads")
    if command == ["scan"]:
        # An agent that runs for years never needs what it takes.
        from edge_agent.commands import scan

        scan.add_arguments(scanning)
    _add_import(commands.add_parser("import", help="make a configuration from a register list (CSV or XLSX)"))
    printing = commands.add_parser("print-config", help="print a commented sample configuration")
    printing.add_argument("--schema", action="store_true", help="print the JSON Schema for editors instead")
    return parser


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("list", type=Path, help="register list with a row of headings: .csv or .xlsx")
    parser.add_argument("--out", type=Path, help="file to write, which must not exist; otherwise standard output")
    parser.add_argument("--device", metavar="NAME", help="name of the device, where the list has none (its file name)")
    parser.add_argument("--unit-id", type=int, choices=range(256), metavar="N", default=1, help="if the list has none")
    parser.add_argument("--table", choices=("coil", "discrete", "input", "holding"), help="where the list has none")
    parser.add_argument("--addresses", choices=("modicon", "plain"), help="whether 40001 is holding 0 or 40001")
    parser.add_argument("--base", type=int, choices=(0, 1), default=0, help="what the list calls the first register")
    parser.add_argument("--medium", choices=get_args(Medium), help="what the meters measure")
    parser.add_argument("--encoding", help="of a CSV file that is not UTF-8, such as gb18030 or cp1252")
    parser.add_argument("--host", default="192.0.2.10", help="of the connection")
    parser.add_argument("--port", type=int, choices=range(1, 65_536), metavar="N", default=502, help="as --host")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}; allowed: from 0")
    return value


def _import(options: argparse.Namespace) -> int:
    from edge_agent.commands import import_list
    from edge_agent.importing.document import slug

    name = slug(options.device or options.list.stem) or "device"
    modicon = None if options.addresses is None else options.addresses == "modicon"
    settings = import_list.Options(
        name, options.unit_id, options.table, options.base, modicon, options.medium, options.host, options.port
    )
    try:
        found = import_list.run(options.list, settings, options.encoding)
        if options.out is not None:
            with options.out.open("x", encoding="utf-8") as file:
                file.write(found.text)
    except (import_list.ImportListError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(found.messages), file=sys.stderr)
    if options.out is None:
        print(found.text, end="")
    return 0 if found.complete else 1


def _scan(options: argparse.Namespace) -> int:
    from edge_agent.commands import scan

    found = scan.run(options, lambda line: print(line, file=sys.stderr, flush=True))
    print(found.text, end="")
    return found.code


def _probe(plan: Plan, device: str | None) -> int:
    from edge_agent.commands import probe

    logs.configure("warning", "text")
    try:
        found = probe.run(plan, device)
    except probe.UnknownDeviceError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(found.lines))
    print(f"{found.good} of {found.tags} tags are good")
    return 0 if found.good == found.tags else 1


if __name__ == "__main__":
    sys.exit(main())

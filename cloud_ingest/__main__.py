"""The command line of the cloud side. Exit codes: 0 ok, 1 failure, 2 wrong usage or configuration."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
import psycopg

from cloud_ingest import administration, aside, config, runtime
from cloud_ingest.errors import CloudError
from cloud_ingest.settle import plants
from cloud_ingest.store import incarnation, migrate, pool
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.status import status
from protocols import logs
from protocols.config import ConfigError, json_schema


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "print-config":
        print(json_schema(config.Config) if options.schema else config.sample(), end="")
        return 0
    try:
        found = config.load(options.config, os.environ)
        sources = plants.read(found.settle.plant)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.command == "check-config":
        print(f"{options.config}: ok, roles {', '.join(found.roles)}, {len(sources)} plant models")
        return 0
    logs.configure(options.log_level, options.log_format)
    if options.command == "run":
        return runtime.run(found)
    try:
        with pool.connect(found.store.connection_string(), f"cloud-ingest {options.command}", autocommit=True) as conn:
            return _command(options, found, conn)
    except aside.SelectionError as error:
        print(f"cloud-ingest {options.command} {options.action}: {error}", file=sys.stderr)
        return 2
    except (CloudError, psycopg.Error) as error:
        print(f"cloud-ingest {options.command}: {str(error).strip()}", file=sys.stderr)
        return 1


def _command(options: argparse.Namespace, found: config.Config, conn: Connection) -> int:
    if options.command == "migrate":
        applied = migrate.migrate(conn)
        print("\n".join(applied) if applied else "nothing to do")
        return 0
    migrate.check(conn)
    match options.command:
        case "status":
            _print(status(conn))
        case "restored":
            life = incarnation.restored(conn)
            print(f"incarnation {life.id}: agents will send again what this database lacks")
        case "dlq" | "quarantine":
            listed = options.action != "show"
            return aside.run(options, found, conn, lambda document: _print(document, indent=not listed))
        case name if name in administration.COMMANDS:
            for line in administration.run(options, conn):
                print(line)
    return 0


def _print(document: dict[str, Any], *, indent: bool = True) -> None:
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2 if indent else 0).decode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cloud-ingest", description="Takes agents' messages into the database, keeps accounts and serves them."
    )
    parser.add_argument("--version", action="version", version=f"cloud-ingest {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add(commands, "run", "run the roles of the configuration until SIGTERM or SIGINT")
    _add(commands, "migrate", "bring the tables of the database up to date")
    _add(commands, "status", "print the state of the store as JSON")
    _add(commands, "restored", "tell agents, after a restore of the database, to send again what it lacks")
    _add(commands, "check-config", "check a configuration without connecting")
    printing = commands.add_parser("print-config", help="print a commented sample configuration")
    printing.add_argument("--schema", action="store_true", help="print the JSON Schema for editors instead")
    aside.add_parsers(commands, _add)
    administration.add_commands(commands, _add)
    return parser


def _add(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    parser.add_argument("config", type=Path, help="ingest.toml")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    return parser


def _version() -> str:
    try:
        return metadata.version("metercarbon")
    except metadata.PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())

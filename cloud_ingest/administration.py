"""``cloud-ingest tenant|site|agent add|list|disable|enable``: the commands that start an installation from nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import orjson

from cloud_ingest.store import administration
from cloud_ingest.store.pool import Connection
from protocols import topics
from protocols.errors import TopicError

_KINDS: tuple[administration.Kind, ...] = ("tenant", "site", "agent")
COMMANDS = frozenset(_KINDS)
"""Names of the commands."""
_DONE = {"add": "added", "disable": "disabled", "enable": "enabled"}
_WHAT = {
    "tenant": "the owner of sites and agents",
    "site": "a site of a tenant: the first part of its points' names",
    "agent": "an agent of a tenant: a gateway that sends",
}
_EFFECT = {
    "tenant": "nothing is taken from its agents",
    "site": "no births and readings of its points are taken",
    "agent": "nothing is taken from it",
}


def add_commands(commands: Any, add_command: Callable[[Any, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to a parser; `add_command` makes one that takes a configuration."""
    for kind in _KINDS:
        actions = commands.add_parser(kind, help=f"administer: {_WHAT[kind]}").add_subparsers(
            dest="action", required=True, metavar="action"
        )
        add_command(actions, "list", f"print each {kind}, one JSON object a line")
        for action, what in (
            ("add", f"add {_WHAT[kind]}"),
            (
                "disable",
                f"disable a {kind}: {_EFFECT[kind]}; what comes goes to the dead letters and stays with agents",
            ),
            ("enable", f"enable a {kind} again"),
        ):
            parser = add_command(actions, action, what)
            if kind != "tenant":
                parser.add_argument("tenant", type=_name, help="its tenant's name")
            parser.add_argument("name", type=_name, help=topics.NAME_RULE)


def run(options: argparse.Namespace, conn: Connection) -> list[str]:
    """Do what a command line of ours says; returns the lines to print.

    Raises
    ------
    UnknownNameError
        If it names what is not there.
    """
    kind: administration.Kind = options.command
    if options.action == "list":
        return [orjson.dumps(item).decode() for item in administration.listing(conn, kind)]
    name: str = options.name
    tenant: str = name if kind == "tenant" else options.tenant
    if options.action == "add":
        changed = administration.add(conn, kind, tenant, name)
    else:
        changed = administration.set_disabled(conn, kind, tenant, name, disabled=options.action == "disable")
    whole = name if kind == "tenant" else f"{tenant}/{name}"
    return [f"{kind} {whole}: {_DONE[options.action]}{'' if changed else ' already'}"]


def _name(text: str) -> str:
    try:
        return topics.check_name("name", text)
    except TopicError as error:
        raise argparse.ArgumentTypeError(str(error)) from error

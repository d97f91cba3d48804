"""Commands ``dlq`` and ``quarantine``: what was put aside is looked at, stored after all, or discarded.

Every letter or reading named is answered; one that could not be dealt with makes the exit code 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from cloud_ingest.config import Config
from cloud_ingest.errors import CloudError
from cloud_ingest.ingest import revive
from cloud_ingest.ingest.write import Flush
from cloud_ingest.signals import Signals
from cloud_ingest.store import letters, quarantine
from cloud_ingest.store.actions import Operator
from cloud_ingest.store.partitions import Partitions
from cloud_ingest.store.pool import Connection
from cloud_ingest.store.quarantine import Quarantined
from cloud_ingest.store.times import EARLIEST_US
from protocols.timebase import US

Document = dict[str, Any]
Answers = Iterator[tuple[Document, bool]]
"""What to tell, and whether that was as the operator wanted it."""
COMMANDS = ("dlq", "quarantine")
MAX_IDENT = 2**63 - 1
_FURTHEST_S = 1e11
"""Beyond any real shift [s]."""


class SelectionError(CloudError):
    """A command does not say, or not clearly, what it is to act on."""


def add_parsers(commands: Any, add: Callable[[Any, str, str], argparse.ArgumentParser]) -> None:
    """Describe the two commands.

    Parameters
    ----------
    commands
        The subparsers they belong to.
    add
        Makes a subcommand with the options that all have.
    """
    dlq = commands.add_parser("dlq", help="messages that could not be stored: list, show, replay, discard")
    actions = dlq.add_subparsers(dest="action", required=True, metavar="action")
    listing = add(actions, "list", "print dead letters, newest first, one JSON object a line")
    show = add(actions, "show", "print one dead letter with its payload")
    show.add_argument("id", type=_ident)
    replay = add(actions, "replay", "send dead letters through the normal path once more")
    replay.add_argument("--dry-run", action="store_true", help="say what would become of them, and change nothing")
    discard = add(actions, "discard", "remove dead letters for good; who did so, when and why is kept")
    for parser in (listing, replay, discard):
        _add_owner(parser)
        parser.add_argument("--kind", choices=letters.KINDS)
        parser.add_argument("--reason", help="part of the reason")
    _add_page(listing)
    _add_acting(replay, discard)

    held = commands.add_parser("quarantine", help="readings with times that can't be: list, release, discard")
    actions = held.add_subparsers(dest="action", required=True, metavar="action")
    listing = add(actions, "list", "print readings, newest first, one JSON object a line")
    listing.add_argument("--state", choices=quarantine.STATES, default="held")
    release = add(actions, "release", "store readings whose time is possible by now, or is so when shifted")
    release.add_argument(
        "--shift-s", type=_shift, default=0.0, help="added to each time [s]; a negative one is written --shift-s=-60"
    )
    discard = add(actions, "discard", "never store readings; they are kept, with who said so, when and why")
    for parser in (listing, release, discard):
        _add_owner(parser)
        parser.add_argument("--point", help="full name: site/device/tag")
    _add_page(listing)
    _add_acting(release, discard)


def run(options: argparse.Namespace, config: Config, conn: Connection, tell: Callable[[Document], None]) -> int:
    """Do what the options say.

    Parameters
    ----------
    options
        Parsed by what `add_parsers` described.
    config
        Whole configuration.
    conn
        Connection to a migrated database, in autocommit mode.
    tell
        Gives the operator a document, one for each thing dealt with.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    SelectionError
        If it is not clear what to act on.
    """
    failed = False
    for document, well in _ACTIONS[options.command, options.action](options, config, conn):
        tell(document)
        failed |= not well
    return int(failed)


def _list_letters(options: argparse.Namespace, _config: Config, conn: Connection) -> Answers:
    for letter in letters.newest(conn, options.limit, options.below, _letter_filter(options)):
        yield dataclasses.asdict(letter), True


def _show_letter(options: argparse.Namespace, _config: Config, conn: Connection) -> Answers:
    found = letters.find(conn, options.id)
    if found is None:
        yield _no_letter(options.id)
    else:
        letter, payload = found
        yield dataclasses.asdict(letter) | {"payload": payload.decode("utf-8", "backslashreplace")}, True


def _replay(options: argparse.Namespace, config: Config, conn: Connection) -> Answers:
    operator = _operator(options)

    def flush() -> Flush:
        return Flush(conn, config.store.chunk_days, config.ingest.max_ahead_s, Signals())

    writing = flush()
    for ident in _selected_letters(options, conn):
        if options.dry_run:
            revival = revive.rehearse(conn, flush, ident, operator)
        else:
            revival = revive.revive(conn, writing, ident, operator)
        if revival.fate == "gone":
            yield _no_letter(ident)
        else:
            answer = dataclasses.asdict(revival) | ({"dry_run": True} if options.dry_run else {})
            yield answer, revival.fate != "dead"


def _discard_letters(options: argparse.Namespace, _config: Config, conn: Connection) -> Answers:
    operator = _operator(options)
    for ident in _selected_letters(options, conn):
        discarded = letters.discard(conn, ident, operator)
        yield ({"id": ident, "fate": "discarded"}, True) if discarded else _no_letter(ident)


def _list_readings(options: argparse.Namespace, _config: Config, conn: Connection) -> Answers:
    fits = dataclasses.replace(_reading_filter(options), state=options.state)
    for reading in quarantine.newest(conn, options.limit, options.below, fits):
        yield dataclasses.asdict(reading), True


def _release(options: argparse.Namespace, config: Config, conn: Connection) -> Answers:
    shift_us = round(options.shift_s * US)
    latest_us = time.time_ns() // 1000 + round(config.ingest.max_ahead_s * US)
    partitions = Partitions(conn, config.store.chunk_days)
    idents = _selected_readings(options, conn)
    before = _named(options, conn)
    count = quarantine.release(conn, partitions, idents, latest_us, _operator(options), shift_us)
    yield {"released": count, "left": len(idents) - count}, count == len(idents)
    for ident, reading in before.items():
        if reading is not None and reading.state == "held":
            at_us = reading.at_us + shift_us
            if at_us < EARLIEST_US:
                yield _not_now(ident, f"time {at_us} µs is before the year 2000; --shift-s moves it"), False
            elif at_us > latest_us:
                yield _not_now(ident, f"time {at_us} µs is still in the future; --shift-s moves it"), False
        else:
            yield _not_held(ident, reading), False


def _discard_readings(options: argparse.Namespace, _config: Config, conn: Connection) -> Answers:
    idents = _selected_readings(options, conn)
    before = _named(options, conn)
    count = quarantine.discard(conn, idents, _operator(options))
    yield {"discarded": count, "left": len(idents) - count}, count == len(idents)
    for ident, reading in before.items():
        if reading is None or reading.state != "held":
            yield _not_held(ident, reading), False


_ACTIONS: dict[tuple[str, str], Callable[[argparse.Namespace, Config, Connection], Answers]] = {
    ("dlq", "list"): _list_letters,
    ("dlq", "show"): _show_letter,
    ("dlq", "replay"): _replay,
    ("dlq", "discard"): _discard_letters,
    ("quarantine", "list"): _list_readings,
    ("quarantine", "release"): _release,
    ("quarantine", "discard"): _discard_readings,
}


def _letter_filter(options: argparse.Namespace) -> letters.Fits:
    return letters.Fits(options.tenant, options.agent, options.kind, options.reason)


def _reading_filter(options: argparse.Namespace) -> quarantine.Fits:
    return quarantine.Fits(options.tenant, options.agent, options.point)


def _selected_letters(options: argparse.Namespace, conn: Connection) -> list[int]:
    fits = _letter_filter(options)
    return _checked(options, fits != letters.EVERY) or letters.idents(conn, fits)


def _selected_readings(options: argparse.Namespace, conn: Connection) -> list[int]:
    fits = _reading_filter(options)
    return _checked(options, fits != quarantine.HELD) or quarantine.idents(conn, fits)


def _checked(options: argparse.Namespace, filtered: bool) -> list[int]:
    """Ids given; none if everything that fits is meant."""
    ways = [bool(options.ids), filtered, options.all]
    if sum(ways) != 1:
        what = "nothing" if not any(ways) else "more than one of them"
        raise SelectionError(f"{what} given; allowed: ids, or filters such as --agent, or --all")
    return list(dict.fromkeys(options.ids))


def _named(options: argparse.Namespace, conn: Connection) -> dict[int, Quarantined | None]:
    """Readings given by their ids, as they are now."""
    return {ident: quarantine.find(conn, ident) for ident in dict.fromkeys(options.ids)}


def _no_letter(ident: int) -> tuple[Document, bool]:
    return {"id": ident, "fate": "gone", "reason": f"there is no dead letter {ident}"}, False


def _not_held(ident: int, reading: Quarantined | None) -> Document:
    state = "there is no such reading" if reading is None else f"it is {reading.state} already"
    return _not_now(ident, state)


def _not_now(ident: int, why: str) -> Document:
    return {"id": ident, "reason": f"reading {ident} in quarantine: {why}"}


def _operator(options: argparse.Namespace) -> Operator:
    return Operator(options.who or _account(), options.why or "")


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A user id without a name, as containers have them.
        return f"uid {os.getuid()}"


def _add_owner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant")
    parser.add_argument("--agent")


def _add_page(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_positive, default=20)
    parser.add_argument("--below", type=_ident, help="only ids below this one: the last of the page before")


def _add_acting(*parsers: argparse.ArgumentParser) -> None:
    """What all need that change something; the last of them is not done without a reason."""
    for parser in parsers:
        parser.add_argument("ids", type=_ident, nargs="*", metavar="id", help="which ones; before any option")
        parser.add_argument("--all", action="store_true", help="all there are")
        parser.add_argument("--who", type=_said, help="who does this; default: the account it runs under")
        last = parser is parsers[-1]
        parser.add_argument("--why", type=_said, required=last, help="kept with the action")


def _ident(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_IDENT:
        raise argparse.ArgumentTypeError(f"{text}; allowed: from 1 to {MAX_IDENT}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}; allowed: from 1")
    return value


def _said(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: some text")
    return text


def _shift(text: str) -> float:
    value = float(text)
    if not abs(value) <= _FURTHEST_S:
        raise argparse.ArgumentTypeError(f"{text}; allowed: from {-_FURTHEST_S:g} to {_FURTHEST_S:g}")
    return value

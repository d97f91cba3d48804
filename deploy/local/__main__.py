"""The demo: a plant's days through real meters' sockets, a broker, a database and the accounts, on one machine."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from datetime import datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import orjson
from rich.console import Console

from accounting import model
from deploy.local import report as reporting
from deploy.local.broker import local_broker
from deploy.local.display import PICTURE_WIDTH, Progress, picture, show
from deploy.local.errors import StackError
from deploy.local.postgres import embedded_postgres
from deploy.local.stack import Setting, Stack, running_stack
from deploy.local.tally import readings_sent, tally
from protocols.timebase import US

PACKS = Path(__file__).resolve().parent.parent / "plants"
AFTER_END_S = 1800
"""Plant seconds that the plant runs on after its last day, so that every meter is read beyond the end."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; exit code 0 if every reading arrived once and every published figure was found."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    packs = sorted(path.parent.name for path in PACKS.glob("*/expected.toml"))
    parser.add_argument("--plant", choices=packs, default="cement", help="plant pack (default: %(default)s)")
    parser.add_argument("--once", action="store_true", help="end after the plant's days instead of serving on")
    parser.add_argument("--report", type=Path, help="write the result as JSON to this file")
    parser.add_argument("--picture", type=Path, help="draw the result as SVG to this file")
    parser.add_argument("--speed", type=float, default=1440, help="plant seconds per second (default: %(default)s)")
    parser.add_argument("--api-port", type=int, default=0, help="port of the API on 127.0.0.1 (default: a free one)")
    parser.add_argument("--keep", type=Path, help="keep database, buffer and logs in this new directory")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PICTURE_WIDTH)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            directory = options.keep
            if directory is None:
                directory = Path(tempfile.mkdtemp(prefix="metercarbon-"))
                stack.callback(shutil.rmtree, directory, ignore_errors=True)
            else:
                directory.mkdir(parents=True)
            found = _run(options, directory, console)
    except StackError as error:
        console.print(f"[red]{error}[/]", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    return 0 if found["ok"] else 1


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _run(options: argparse.Namespace, directory: Path, console: Console) -> dict[str, Any]:
    started = time.monotonic()
    pack = PACKS / options.plant
    expected = reporting.published(pack / "expected.toml")
    plant = model.load((pack / "plant.toml").read_text(encoding="utf-8"), str(pack / "plant.toml"))
    zone = ZoneInfo(plant.site.timezone)
    first = datetime.combine(expected.before, clock_time(), zone)
    end = datetime.combine(expected.after + timedelta(days=1), clock_time(), zone)
    labels = {
        process.name: ("  " if process.parent else "") + (process.label or process.name) for process in plant.processes
    }
    console.print("starting PostgreSQL, broker, ingest and API, simulated plant, agent …")
    with contextlib.ExitStack() as stack:
        dsn = stack.enter_context(embedded_postgres(directory / "postgres"))
        broker = local_broker(directory)
        stack.callback(broker.child.kill)
        broker.start()
        setting = Setting(pack, directory, dsn, broker, first, options.speed, api_port=options.api_port)
        running = stack.enter_context(running_stack(setting))
        console.print(
            f"broker {broker.kind} · API {running.api_url}/docs · a plant day takes {86400 / options.speed:.0f} s"
        )
        with Progress(console, zone, round(first.timestamp() * US), round(end.timestamp() * US), labels) as progress:
            _watch(running, progress, round(end.timestamp() * US) + AFTER_END_S * US, expected)
        running.agent.stop(timeout_s=90)
        running.fleet.stop()
        running.wait_until_settled()
        counted = tally(dsn, readings_sent(running.agent_report_file))
        days = day_accounts(running, plant.site.name, first, end)
        starts = (first.isoformat(), datetime.combine(expected.after, clock_time(), zone).isoformat())
        found = reporting.build(options.plant, expected, days, labels, starts, counted)
        found["broker"] = broker.kind
        found["database"] = running.get("/v1/status")["edition"]
        found["elapsed_s"] = round(time.monotonic() - started, 1)
        show(console, found)
        if options.picture:
            options.picture.write_text(picture(found), encoding="utf-8")
        if options.report:
            options.report.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
        if not options.once:
            console.print(f"the API stays up at {running.api_url}/docs until Ctrl-C")
            while True:
                running.ingest.require()
                time.sleep(1)
        return found


def _watch(running: Stack, progress: Progress, until_us: int, expected: reporting.Published) -> None:
    """Show progress until the plant's clock has passed the end."""
    while (now_us := running.clock.now_us()) < until_us:
        running.require()
        status = running.get("/v1/status", totals=True)
        latest = {step.process: None for step in expected.steps} | latest_unit_use(running, now_us)
        progress.show(now_us, status, {step.process: latest[step.process] for step in expected.steps})
        time.sleep(0.5)


def latest_unit_use(running: Stack, now_us: int) -> dict[str, float | None]:
    """Electricity per output of each process in its latest final hour."""
    since = datetime.fromtimestamp(now_us / US - 4 * 3600, running.setting.first.tzinfo)
    answer = running.get("/v1/accounts", period="hour", carrier="electricity", **{"from": since.isoformat()})
    return {
        account["process"]: account["unit_use"]["value"]
        for account in answer["accounts"]
        if account["status"] == "final" and account["unit_use"]
    }


def day_accounts(running: Stack, site: str, first: datetime, end: datetime) -> list[dict[str, Any]]:
    """All day accounts of a site between two instants."""
    query = {"site": site, "period": "day", "from": first.isoformat(), "to": end.isoformat()}
    found: list[dict[str, Any]] = []
    while True:
        answer = running.get("/v1/accounts", **query)
        found += answer["accounts"]
        if answer["next"] is None:
            return found
        query["cursor"] = answer["next"]


if __name__ == "__main__":
    sys.exit(main())

"""An agent as a process of its own: how long its start takes, and what it costs while it runs."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.committer import Committer
from benchmarks.errors import BenchmarkError
from benchmarks.processes import usage
from deploy.local.broker import Broker, local_broker
from deploy.local.ports import free_port
from deploy.local.processes import Child
from tests.support import services

_START_S = 180.0
_MIDDLE_S = 0.25
"""How long before the next poll the agent is told to stop [s]."""
_REST_S = 1.0
"""Between a look at the metrics and the next window [s]."""


@dataclass(frozen=True, slots=True)
class Windows:
    """When is measured: so many stretches of so many seconds, after the agent ran for `settle_s`."""

    count: int = 4
    length_s: float = 15.0
    settle_s: float = 6.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found.

    Attributes
    ----------
    start_s
        From the start of the process to its first data [s].
    cpu
        Share of a core in each window.
    rss_mb, peak_mb
        Largest memory seen in the windows, and ever [MB].
    overruns
        Poll times that passed without a poll, from the first window to the last.
    readings_per_s
        Readings that came to the store, from the first window to the last [1/s].
    totals
        What the agent says of itself at its end.
    """

    start_s: float
    cpu: list[float]
    rss_mb: float
    peak_mb: float
    overruns: int
    readings_per_s: float
    totals: dict[str, Any]


def measure(
    text: Callable[[Broker, Path], str], windows: Windows, directory: Path, core: int | None = None
) -> Measured:
    """Run an agent against a broker and a store that takes everything.

    Parameters
    ----------
    text
        Its configuration, given the broker and the file of the buffer.
    windows
        When is measured.
    directory
        An empty one.
    core
        The only one that it may use; None: any.
    """
    report, config, port = directory / "report.json", directory / "agent.toml", free_port()
    with broker(directory) as server, Committer(server) as committer:
        metrics = f'\n[metrics]\nhost = "127.0.0.1"\nport = {port}\n'
        config.write_text(text(server, directory / "buffer.sqlite") + metrics)
        command = [sys.executable, "-m", "edge_agent", "run", str(config), "--report", str(report), "--drain-s", "10"]
        started = time.monotonic()
        with Child("edge-agent", command, directory / "agent.log") as agent:
            if core is not None:
                os.sched_setaffinity(agent.pid, {core})
            while committer.messages < 2:
                agent.require()
                if time.monotonic() > started + _START_S:
                    raise BenchmarkError(f"the agent published nothing in {_START_S:g} s:\n{agent.log_tail()}")
                time.sleep(0.02)
            start_s = time.monotonic() - started
            time.sleep(windows.settle_s)
            overruns = _overruns(port)
            time.sleep(_REST_S)
            readings, since = committer.readings, time.monotonic()
            cpu, rss_mb = _observe(windows, agent.pid)
            readings_per_s = (committer.readings - readings) / (time.monotonic() - since)
            overruns = _overruns(port) - overruns
            peak_mb = usage(agent.pid).peak_mb
            # Between two polls, so that the last one is whole.
            time.sleep(1 - (time.time() + _MIDDLE_S) % 1)
            agent.stop(60)
    totals = orjson.loads(report.read_bytes())
    if totals["failures"]:
        raise BenchmarkError(f"reads failed: {totals['failures']}")
    return Measured(start_s, cpu, rss_mb, peak_mb, overruns, readings_per_s, totals)


def _observe(windows: Windows, pid: int) -> tuple[list[float], float]:
    shares = []
    rss_mb = 0.0
    for _ in range(windows.count):
        before, since = usage(pid), time.monotonic()
        time.sleep(windows.length_s)
        after = usage(pid)
        shares.append((after.cpu_s - before.cpu_s) / (time.monotonic() - since))
        rss_mb = max(rss_mb, after.rss_mb)
    return shares, rss_mb


def _overruns(port: int) -> int:
    """What the agent has counted so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    (found,) = (line.split(" ")[1] for line in lines if line.startswith("metercarbon_agent_overruns_total "))
    return int(found)


def head(server: Broker, buffer: Path) -> str:
    """What every configuration begins with."""
    return f"""\
[agent]
tenant = "bench"
name = "gw1"
site = "plant"
[buffer]
path = "{buffer}"
hold_unsynchronised_s = 0
[mqtt]
host = "{server.host}"
port = {server.port}
version = {server.mqtt_version}
[polling]
poll_interval_s = 1
gap_limit_s = 60
"""


@contextmanager
def broker(directory: Path) -> Iterator[Broker]:
    """Mosquitto, or amqtt where there is none."""
    try:
        with services.mosquitto(directory) as found:
            yield found
            return
    except services.ServiceError as error:
        print(f"amqtt instead of Mosquitto: {error}", file=sys.stderr)
    found = local_broker(directory, kind="amqtt")
    found.start()
    try:
        yield found
    finally:
        found.child.kill()


@contextmanager
def confined(cores: set[int]) -> Iterator[None]:
    """Keep this process, and those that it starts meanwhile, on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

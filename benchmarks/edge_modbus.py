"""What the agent costs while it polls Modbus devices over loopback, through buffer and broker, on time.

The agent is a process of its own, fed by a responder that answers at once, and freed by a store that takes
everything. Beside it, bare loops that do the same block reads and keep nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks import loops
from benchmarks.committer import Committer
from benchmarks.errors import BenchmarkError
from benchmarks.processes import usage
from benchmarks.results import Result, Results, compared, median
from deploy.local.broker import Broker, local_broker
from deploy.local.processes import Child
from tests.support import services

LOOP_S = 1.5
LOOP_REPEATS = 3
_MIDDLE_S = 0.25
"""How long before the next poll the agent is told to stop [s]."""


@dataclass(frozen=True)
class Case:
    """A load: devices with float32 tags in one block, polled each second, spread over connections.

    Attributes
    ----------
    windows, window_s, settle_s
        CPU time is measured in so many stretches of so many seconds, after the agent ran for `settle_s`.
    """

    name: str
    devices: int
    tags: int
    connections: int
    windows: int = 3
    window_s: float = 5.0
    settle_s: float = 4.0


CASES = (
    Case("1000_tags", devices=20, tags=50, connections=4),
    Case("25k_tags", devices=400, tags=62, connections=8),
    Case("100k_tags", devices=1600, tags=62, connections=16),
)


def run(directory: Path) -> Results:
    """All cases, after the bare loops."""
    with responder(max(case.connections for case in CASES)) as ports:
        bare_s = {kind: _bare_s(kind, ports[0]) for kind in loops.LOOPS}
        results = {
            f"edge_modbus.bare_{kind}": Result(1 / cost_s, "requests/s of a core") for kind, cost_s in bare_s.items()
        }
        for case in CASES:
            folder = directory / case.name
            folder.mkdir()
            results |= measure(case, ports, bare_s, folder)
    return results


def measure(case: Case, ports: list[int], bare_s: dict[str, float], directory: Path) -> Results:
    """One case: CPU, memory and punctuality of the agent.

    Parameters
    ----------
    case
        The load.
    ports
        Of the responder.
    bare_s
        CPU time of one block read by the bare loops [s].
    directory
        An empty one.
    """
    report = directory / "report.json"
    config = directory / "agent.toml"
    with broker(directory) as server, Committer(server) as committer:
        config.write_text(agent_toml(case, ports, server, directory / "buffer.sqlite"))
        command = [sys.executable, "-m", "edge_agent", "run", str(config), "--report", str(report), "--drain-s", "10"]
        started = time.monotonic()
        with Child("edge-agent", command, directory / "agent.log") as agent:
            while committer.messages < 2:
                agent.require()
                if time.monotonic() > started + 120:
                    raise BenchmarkError(f"the agent published nothing in 120 s:\n{agent.log_tail()}")
                time.sleep(0.05)
            start_s = time.monotonic() - started
            time.sleep(case.settle_s)
            shares, rss_mb = _windows(case, agent.pid)
            # Between two polls, so that the last one is whole.
            time.sleep(1 - (time.time() + _MIDDLE_S) % 1)
            agent.stop(40)
    totals = orjson.loads(report.read_bytes())
    return _results(case, start_s, shares, rss_mb, bare_s, totals)


def _windows(case: Case, pid: int) -> tuple[list[float], float]:
    """CPU share [cores] in each window, and the largest memory [MB]."""
    shares = []
    rss_mb = 0.0
    for _ in range(case.windows):
        before, since = usage(pid), time.monotonic()
        time.sleep(case.window_s)
        after = usage(pid)
        shares.append((after.cpu_s - before.cpu_s) / (time.monotonic() - since))
        rss_mb = max(rss_mb, after.rss_mb)
    return shares, rss_mb


def _results(
    case: Case,
    start_s: float,
    shares: list[float],
    rss_mb: float,
    bare_s: dict[str, float],
    totals: dict[str, Any],
) -> Results:
    if totals["failures"]:
        raise BenchmarkError(f"{case.name}: reads failed: {totals['failures']}")
    share = median(shares)
    name = f"edge_modbus.{case.name}"
    due = max(totals["polls"] + totals["overruns"], 1)
    return {
        f"{name}.cpu": compared(
            share, "core", case.devices * bare_s["pymodbus"], "bare pymodbus loop, same block reads"
        ),
        f"{name}.cpu_to_asyncio": compared(
            share, "core", case.devices * bare_s["asyncio"], "bare asyncio loop, same block reads"
        ),
        f"{name}.rss": Result(rss_mb, "MB"),
        f"{name}.overruns": Result(totals["overruns"] / due, "of polls"),
        f"{name}.uncertain_times": Result(
            totals["uncertain_times"] / max(totals["readings_appended"], 1), "of readings"
        ),
        f"{name}.undelivered": Result(totals["readings_pending"], "readings"),
        f"{name}.start": Result(start_s, "s"),
    }


def agent_toml(case: Case, ports: list[int], server: Broker, buffer: Path) -> str:
    """Configuration of the agent for a case."""
    tags = ", ".join(
        f'{{name = "v{n}", quantity = "temperature", unit = "degC", kind = "gauge", table = "holding", '
        f'address = {2 * n}, type = "float32"}}'
        for n in range(case.tags)
    )
    parts = [
        f"""\
[agent]
tenant = "bench"
name = "gw1"
site = "plant"
[buffer]
path = "{buffer}"
[mqtt]
host = "{server.host}"
port = {server.port}
version = {server.mqtt_version}
[polling]
poll_interval_s = 1
gap_limit_s = 60
"""
    ]
    parts += [
        f'[[connection]]\nname = "bus{n}"\nprotocol = "modbus-tcp"\nhost = "127.0.0.1"\nport = {port}\n'
        for n, port in enumerate(ports[: case.connections])
    ]
    parts += [
        f'[[device]]\nname = "d{n}"\nconnection = "bus{n % case.connections}"\n'
        f"unit_id = {n // case.connections + 1}\ntag = [{tags}]\n"
        for n in range(case.devices)
    ]
    return "".join(parts)


@contextmanager
def broker(directory: Path) -> Iterator[Broker]:
    """Mosquitto, or amqtt where there is none."""
    try:
        with services.mosquitto(directory) as found:
            yield found
            return
    except services.ServiceError as error:
        print(f"edge_modbus: amqtt instead of Mosquitto: {error}", file=sys.stderr)
    found = local_broker(directory, kind="amqtt")
    found.start()
    try:
        yield found
    finally:
        found.child.kill()


@contextmanager
def responder(ports: int) -> Iterator[list[int]]:
    """A responder on so many ports."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.responder", str(ports)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def _bare_s(kind: str, port: int) -> float:
    """CPU time of one block read by a bare loop [s]."""
    command = [sys.executable, "-m", "benchmarks.loops", kind, str(port), str(LOOP_S)]
    found = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(LOOP_REPEATS)]
    return median([loop["cpu_s"] / loop["requests"] for loop in found])

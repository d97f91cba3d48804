"""What the agent costs while it polls Modbus devices over loopback, through buffer and broker, on time.

The agent is a process of its own, fed by a responder that answers at once, and freed by a store that takes
everything. Beside it, bare loops that do the same block reads and keep nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import loops
from benchmarks.agent import Measured, Windows, confined, head
from benchmarks.agent import measure as measure_agent
from benchmarks.errors import BenchmarkError
from benchmarks.results import Result, Results, compared, median
from deploy.local.broker import Broker

LOOP_S = 1.5
LOOP_REPEATS = 3


@dataclass(frozen=True)
class Case:
    """A load: devices with float32 tags in one block, polled each second, spread over connections.

    Attributes
    ----------
    spelled_out
        Each device lists its tags; otherwise all name one model of the configuration.
    """

    name: str
    devices: int
    tags: int
    connections: int
    windows: Windows = field(default_factory=Windows)
    spelled_out: bool = False

    @property
    def tags_per_s(self) -> int:
        """All tags of all devices, once a second."""
        return self.devices * self.tags


CASES = (
    Case("1000_tags", devices=20, tags=50, connections=4),
    Case("100k_tags", devices=1600, tags=62, connections=16),
    Case("100k_tags_spelled_out", 1600, 62, 16, Windows(count=2, length_s=5.0), spelled_out=True),
)
LADDER = (
    Case("edge_largest", 4064, 62, 32, Windows(count=4, length_s=15.0, settle_s=15.0)),
    *(
        Case("edge_largest", devices, 62, 32, Windows(count=2, length_s=10.0, settle_s=15.0))
        for devices in (4864, 5664, 6464, 7264)
    ),
)
"""Loads for one core, ascending; the first is to be held for a minute."""


def run(directory: Path) -> Results:
    """All cases, after the bare loops."""
    with responder(max(case.connections for case in CASES)) as ports:
        bare_s = _bare(ports[0])
        results = {
            f"edge_modbus.bare_{kind}": Result(1 / cost_s, "requests/s of a core") for kind, cost_s in bare_s.items()
        }
        for case in CASES:
            results |= measure(case, ports, bare_s, _new(directory, case.name))
    return results


def run_largest(directory: Path) -> Results:
    """The ladder, after the bare loops."""
    with responder(1) as ports:
        bare_s = _bare(ports[0])
    return largest(LADDER, bare_s, directory)


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
    found = _agent(case, ports, directory, None)
    return _results(f"edge_modbus.{case.name}", case, found, bare_s)


def largest(ladder: tuple[Case, ...], bare_s: dict[str, float], directory: Path) -> Results:
    """The largest load that the agent holds on one core, with everything else on the others.

    Held means: no poll time passes without a poll, and all that was read is delivered.
    """
    cores = sorted(os.sched_getaffinity(0))
    results: Results = {}
    reason = ""
    with confined(set(cores[1:] or cores)), responder(max(case.connections for case in ladder)) as ports:
        for case in ladder:
            try:
                found = _agent(case, ports, _new(directory, f"{case.name}_{case.devices}"), cores[0])
            except BenchmarkError as error:
                reason = str(error)
                break
            if found.overruns or found.totals["readings_pending"]:
                reason = f"{found.overruns} overruns, {found.totals['readings_pending']} readings not delivered"
                break
            name = case.name
            results = {f"{name}.held": Result(case.tags_per_s, "tags/s on one core")}
            results |= _results(name, case, found, bare_s)
    if not results:
        raise BenchmarkError(f"{ladder[0].tags_per_s} tags/s could not be held on one core: {reason}")
    if reason:
        print(f"edge_largest: more was not held: {reason}", file=sys.stderr)
    return results


def _agent(case: Case, ports: list[int], directory: Path, core: int | None) -> Measured:
    return measure_agent(lambda server, buffer: agent_toml(case, ports, server, buffer), case.windows, directory, core)


def _results(name: str, case: Case, found: Measured, bare_s: dict[str, float]) -> Results:
    totals = found.totals
    share = median(found.cpu)
    return {
        f"{name}.cpu": compared(
            share, "core", case.devices * bare_s["pymodbus"], "bare pymodbus loop, same block reads"
        ),
        f"{name}.cpu_to_asyncio": compared(
            share, "core", case.devices * bare_s["asyncio"], "bare asyncio loop, same block reads"
        ),
        f"{name}.rss": Result(found.rss_mb, "MB"),
        f"{name}.rss_peak": Result(found.peak_mb, "MB"),
        f"{name}.delivered": Result(found.readings_per_s, "readings/s"),
        f"{name}.overruns": Result(found.overruns, "polls"),
        f"{name}.overruns_at_start": Result(totals["overruns"] - found.overruns, "polls"),
        f"{name}.uncertain_times": Result(
            totals["uncertain_times"] / max(totals["readings_appended"], 1), "of readings"
        ),
        f"{name}.undelivered": Result(totals["readings_pending"], "readings"),
        f"{name}.start": Result(found.start_s, "s"),
    }


def agent_toml(case: Case, ports: list[int], server: Broker, buffer: Path) -> str:
    """Configuration of the agent for a case."""
    fields = [
        {
            "name": f'"v{n}"',
            "quantity": '"temperature"',
            "unit": '"degC"',
            "kind": '"gauge"',
            "table": '"holding"',
            "address": str(2 * n),
            "type": '"float32"',
        }
        for n in range(case.tags)
    ]
    parts = [head(server, buffer)]
    parts += [
        f'[[connection]]\nname = "bus{n}"\nprotocol = "modbus-tcp"\nhost = "127.0.0.1"\nport = {port}\n'
        for n, port in enumerate(ports[: case.connections])
    ]
    if case.spelled_out:
        listed = ", ".join("{" + ", ".join(f"{key} = {value}" for key, value in one.items()) + "}" for one in fields)
        tags = f"tag = [{listed}]\n"
    else:
        parts.append('[[model]]\nname = "meter"\nmedium = "none"\n')
        parts += ["[[model.field]]\n" + "".join(f"{key} = {value}\n" for key, value in one.items()) for one in fields]
        tags = 'model = "meter"\n'
    parts += [
        f'[[device]]\nname = "d{n}"\nconnection = "bus{n % case.connections}"\n'
        f"unit_id = {n // case.connections + 1}\n{tags}"
        for n in range(case.devices)
    ]
    return "".join(parts)


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


def _bare(port: int) -> dict[str, float]:
    """CPU time of one block read by each of the bare loops [s]."""
    return {kind: _bare_s(kind, port) for kind in loops.LOOPS}


def _bare_s(kind: str, port: int) -> float:
    """CPU time of one block read by a bare loop [s]."""
    command = [sys.executable, "-m", "benchmarks.loops", kind, str(port), str(LOOP_S)]
    found = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(LOOP_REPEATS)]
    return median([loop["cpu_s"] / loop["requests"] for loop in found])


def _new(directory: Path, name: str) -> Path:
    folder = directory / name
    folder.mkdir()
    return folder

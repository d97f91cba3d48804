"""One plant pack on one machine: simulated fleet, edge agent and cloud side as three processes.

Database and broker are given, so that the same stack runs on the embedded ones, on TimescaleDB and on
Mosquitto. Plant time is shared: origin, anchor and speed go to fleet and agent through the environment.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from deploy.local.broker import Broker
from deploy.local.errors import StackError
from deploy.local.ports import free_port, wait_for_port
from deploy.local.processes import Child
from protocols.timebase import US, TimeBase

AGENT_REPORT = "agent-report.json"
START_LEAD_S = 8.0
"""Real seconds between the clock's anchor and the first plant instant that counts: time to start."""


@dataclass(frozen=True)
class Setting:
    """Where and when a stack runs.

    Attributes
    ----------
    pack
        Directory of the plant pack.
    directory
        Existing directory for logs, the agent's buffer and the truth log.
    dsn
        Database.
    broker
        A running broker.
    first
        First plant instant that counts (with time zone); the clock starts a little earlier.
    speed
        Plant seconds per real second.
    plant_host
        Loopback address of the simulated devices; another one lets stacks run side by side.
    api_host, api_port
        Where the API listens; port 0 takes a free one.
    fleet_arguments
        Further arguments of ``device-sims run``.
    environment
        Further variables for all processes.
    """

    pack: Path
    directory: Path
    dsn: str
    broker: Broker
    first: datetime
    speed: float
    plant_host: str = "127.0.0.1"
    api_host: str = "127.0.0.1"
    api_port: int = 0
    fleet_arguments: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)


class Stack:
    """The three processes of a running plant; made by `running_stack`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.api_port = setting.api_port or free_port(setting.api_host)
        self.truth_file = setting.directory / "truth.jsonl"
        self.agent_report_file = setting.directory / AGENT_REPORT
        origin_us = round(setting.first.timestamp() * US) - round(START_LEAD_S * setting.speed * US)
        self._origin_us = origin_us
        self.clock = TimeBase(origin_us, time.time_ns() // 1000, setting.speed)
        self.ingest = self._child("cloud-ingest", "cloud_ingest", ["run", str(setting.pack / "ingest.toml")])
        self.fleet = self._child("device-sims", "device_sims", [])
        self.agent = self._child("edge-agent", "edge_agent", [])

    @property
    def api_url(self) -> str:
        """Base address of the API."""
        return f"http://{self.setting.api_host}:{self.api_port}"

    def _child(self, name: str, package: str, arguments: Sequence[str], directory: Path | None = None) -> Child:
        setting = self.setting
        directory = directory or setting.directory
        environment = {
            "METERCARBON_API_HOST": setting.api_host,
            "METERCARBON_API_PORT": str(self.api_port),
            "METERCARBON_CLOCK_ANCHOR_US": str(self.clock.anchor_us),
            "METERCARBON_CLOCK_ORIGIN": datetime.fromtimestamp(self._origin_us / US, setting.first.tzinfo).isoformat(),
            "METERCARBON_CLOCK_SPEED": repr(setting.speed),
            "METERCARBON_DSN": setting.dsn,
            "METERCARBON_PACK_DIR": str(setting.pack),
            "METERCARBON_RUN_DIR": str(directory),
            "MQTT_HOST": setting.broker.host,
            "MQTT_PORT": str(setting.broker.port),
            "MQTT_VERSION": str(setting.broker.mqtt_version),
            "PLANT_HOST": setting.plant_host,
            **setting.environment,
        }
        command = [sys.executable, "-m", package, *arguments]
        return Child(name, command, directory / f"{name}.log", environment)

    def start_ingest(self, timeout_s: float = 120) -> None:
        """Start the cloud side and wait until it is ready; the first start compiles the kernels."""
        self.ingest.start()
        deadline = time.monotonic() + timeout_s
        while True:
            self.ingest.require()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.api_url}/readyz", timeout=5).status_code == httpx.codes.OK:
                    return
            if time.monotonic() > deadline:
                raise StackError(f"cloud-ingest is not ready after {timeout_s:g} s:\n{self.ingest.log_tail()}")
            time.sleep(0.2)

    def start_plant(self) -> None:
        """Set the plant clock going and start fleet and agent."""
        setting = self.setting
        self.clock = TimeBase(self._origin_us, time.time_ns() // 1000, setting.speed)
        fleet = ["run", str(setting.pack / "fleet.toml"), "--truth", str(self.truth_file), *setting.fleet_arguments]
        self.fleet = self._child("device-sims", "device_sims", fleet).start()
        for port in (15020, 14840):
            wait_for_port(setting.plant_host, port, 60, "device-sims")
        self.start_agent()

    def start_agent(self) -> None:
        """Start the agent; again after it was killed."""
        self.agent = self.agent_process(self.setting.directory).start()

    def agent_process(self, directory: Path) -> Child:
        """An agent of this plant with its buffer, log and report in a directory; a clone's in another one."""
        agent = ["run", str(self.setting.pack / "agent.toml"), "--report", str(directory / AGENT_REPORT)]
        return self._child("edge-agent", "edge_agent", agent, directory)

    def require(self) -> None:
        """Check that all three run."""
        for child in (self.fleet, self.agent, self.ingest):
            child.require()

    def get(self, path: str, **query: Any) -> Any:
        """JSON answer of the API.

        Raises
        ------
        StackError
            If the API does not answer with success; the message has its problem document.
        """
        try:
            answer = httpx.get(f"{self.api_url}{path}", params=query, timeout=60)
        except httpx.HTTPError as error:
            raise StackError(f"GET {path}: {error}; cloud-ingest's log ends:\n{self.ingest.log_tail()}") from error
        if answer.is_error:
            raise StackError(f"GET {answer.url}: {answer.status_code} {answer.text}")
        return answer.json()

    def wait_until_settled(self, timeout_s: float = 120) -> None:
        """Wait until settle has followed the change feed to its end."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.ingest.require()
            status = self.get("/v1/status")
            if status["feed"]["lag_rows"] == 0:
                return
            if time.monotonic() > deadline:
                raise StackError(f"settle is still behind after {timeout_s:g} s: {status}")
            time.sleep(0.25)


@contextlib.contextmanager
def running_stack(setting: Setting) -> Iterator[Stack]:
    """Start the cloud side, then the plant; stop whatever still runs at the end."""
    stack = Stack(setting)
    try:
        stack.start_ingest()
        stack.start_plant()
        yield stack
    finally:
        for child in (stack.agent, stack.fleet, stack.ingest):
            child.__exit__()

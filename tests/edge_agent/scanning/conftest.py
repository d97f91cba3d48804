"""Runs `edge-agent scan` as a user does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent import points
from edge_agent.__main__ import main
from edge_agent.points import Plan
from tests.support import edge


@dataclass(frozen=True)
class Ended:
    """How a scan ended: exit code, what it printed, what it told meanwhile."""

    code: int
    out: str
    told: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def plan(self) -> Plan:
        """The printed fragment beside the rest of a configuration."""
        return points.load(edge.head() + self.out, "agent.toml", {})


Scan = Callable[..., Awaitable[Ended]]
Check = Callable[[str], Awaitable[tuple[int, str]]]


@pytest.fixture
def scan(capsys: pytest.CaptureFixture[str]) -> Scan:
    async def run(*arguments: str) -> Ended:
        code = await asyncio.to_thread(main, ["scan", *arguments])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def check_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Puts a fragment beside [agent], [buffer] and [mqtt], and has `check-config` look at it."""

    async def run(fragment: str) -> tuple[int, str]:
        path = tmp_path / "checked.toml"
        path.write_text(edge.head() + fragment, encoding="utf-8")
        code = await asyncio.to_thread(main, ["check-config", str(path)])
        out, errors = capsys.readouterr()
        return code, out + errors

    return run

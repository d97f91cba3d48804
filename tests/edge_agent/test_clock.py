"""What the agent says about its clock."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest

from edge_agent import clock as clocks
from edge_agent.clock import Clock
from protocols.timebase import REAL_TIME, US, TimeBase


class Library:
    """A C library whose adjtimex returns what it is told."""

    def __init__(self, state: int) -> None:
        self.state = state

    def adjtimex(self, _buffer: object) -> int:
        return self.state


@pytest.mark.parametrize(("state", "expected"), [(0, True), (3, True), (5, False)])
def test_the_kernel_is_asked_whether_the_clock_is_disciplined(
    monkeypatch: pytest.MonkeyPatch, state: int, expected: bool
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library(state))
    assert clocks.synchronised() is expected


@pytest.mark.parametrize("there", [True, False])
def test_where_the_kernel_may_not_be_asked_the_time_daemon_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library(-1))
    mark = tmp_path / "synchronized"
    if there:
        mark.touch()
    monkeypatch.setattr(clocks, "_TIMESYNC", mark)
    assert clocks.synchronised() is there


def test_the_real_kernel_gives_an_answer() -> None:
    assert clocks.synchronised() in (True, False)


def test_a_simulated_clock_counts_as_synchronised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "synchronised", lambda: False)
    assert Clock(TimeBase(0, 0, 60.0), simulated=True).state().synchronised
    assert not Clock(REAL_TIME, simulated=False).state().synchronised


def test_the_state_names_the_boot_and_the_monotonic_time() -> None:
    clock = Clock(REAL_TIME, simulated=False)
    before = time.monotonic_ns() // 1000
    state = clock.state()
    assert before <= state.monotonic_us <= time.monotonic_ns() // 1000
    assert state.boot_id == clocks.boot_id()
    assert state.boot_id not in ("", "unknown")


def test_a_system_without_boot_id_has_an_unknown_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clocks, "_BOOT_ID", tmp_path / "none")
    assert clocks.boot_id() == "unknown"


def test_plant_time_runs_by_the_time_base() -> None:
    real_us = time.time_ns() // 1000
    clock = Clock(TimeBase(1_000 * US, real_us, 1000.0), simulated=True)
    assert clock.now_us() >= 1_000 * US
    assert clock.now_us() < 1_000 * US + 1000 * 60 * US

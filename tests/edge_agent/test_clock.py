"""What the agent says about its clock."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest

from edge_agent import clock as clocks
from edge_agent.clock import Clock
from protocols.timebase import REAL_TIME, US, TimeBase
from tests.support.wall import Wall


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


def test_a_simulated_clock_counts_as_synchronised() -> None:
    wall = Wall(disciplined=False)
    assert Clock(TimeBase(0, 0, 60.0), simulated=True, disciplined=wall.is_disciplined).state().synchronised
    assert not Clock(REAL_TIME, simulated=False, disciplined=wall.is_disciplined).state().synchronised


def test_time_runs_on_evenly_until_the_next_look() -> None:
    wall = Wall()
    clock = Clock(REAL_TIME, simulated=False, wall_ns=wall.ns, disciplined=wall.is_disciplined)
    before_us = clock.now_us()
    wall.shift_us = 3600 * US
    assert before_us <= clock.now_us() < before_us + 60 * US
    seen: list[int] = []
    clock.look(None, lambda: seen.append(clock.now_us()))
    # Who closes the books does so in the old time.
    assert seen[0] < before_us + 60 * US
    assert before_us + 3590 * US < clock.now_us() < before_us + 3660 * US
    assert clock.steps == 1


def test_a_look_without_news_closes_no_books() -> None:
    wall = Wall()
    clock = Clock(REAL_TIME, simulated=False, hold_s=5, wall_ns=wall.ns, disciplined=wall.is_disciplined)
    closed: list[int] = []
    for connected_s in (None, 0.0, 100.0, None):
        clock.look(connected_s, lambda: closed.append(1))
    assert not closed
    assert clock.steps == 0


def test_readings_wait_for_the_synchronisation_and_not_for_ever_where_there_is_a_broker() -> None:
    wall = Wall(disciplined=False)
    clock = Clock(REAL_TIME, simulated=False, hold_s=60, wall_ns=wall.ns, disciplined=wall.is_disciplined)
    held = [clock.holding]
    for connected_s in (None, 59.0, 61.0, None):
        clock.look(connected_s, lambda: None)
        held.append(clock.holding)
    # Without a broker nothing could be sent anyway.
    assert held == [True, True, True, False, True]
    assert clock.offset_us is None
    wall.disciplined = True
    clock.look(None, lambda: None)
    assert clock.holding is False
    known: int | None = clock.offset_us
    assert known is not None


def test_connections_that_keep_breaking_count_together() -> None:
    wall = Wall(disciplined=False)
    clock = Clock(REAL_TIME, simulated=False, hold_s=60, wall_ns=wall.ns, disciplined=wall.is_disciplined)
    held = []
    for connected_s in (0.0, 50.0, None, 0.0, 9.0, 11.0, None, 1.0, 59.0, 0.5, 2.0):
        clock.look(connected_s, lambda: None)
        held.append(clock.holding)
    # Once they are gone readings wait anew.
    assert held == [True] * 5 + [False] + [True] * 4 + [False]


def test_readings_of_a_clock_that_was_never_set_wait_for_good() -> None:
    wall = Wall(-time.time() + 100, disciplined=False)
    clock = Clock(REAL_TIME, simulated=False, hold_s=60, wall_ns=wall.ns, disciplined=wall.is_disciplined)
    clock.look(1e6, lambda: None)
    assert clock.holding


def test_without_a_time_to_wait_nothing_waits() -> None:
    wall = Wall(disciplined=False)
    assert not Clock(REAL_TIME, simulated=False, wall_ns=wall.ns, disciplined=wall.is_disciplined).holding


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

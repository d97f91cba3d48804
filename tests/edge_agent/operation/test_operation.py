"""Metrics, the page they are on, the watchdog: against real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from edge_agent.buffer.records import Draft, Stats
from edge_agent.clock import Clock
from edge_agent.drivers.base import Turn
from edge_agent.operation.commits import Commits
from edge_agent.operation.histogram import BOUNDS_S, Histogram
from edge_agent.operation.http import Responder
from edge_agent.operation.metrics import Family, exposition, families
from edge_agent.operation.notify import Notifier
from edge_agent.points import Timing
from edge_agent.polling.crew import Crew
from edge_agent.polling.line import Line
from edge_agent.polling.reporter import Reporter
from edge_agent.signals import Signals
from protocols.reading import ClockState, Columns
from protocols.timebase import REAL_TIME, US
from tests.support import edge
from tests.support.edge import Catcher
from tests.support.modbus_responder import Asked, Reply
from tests.support.modbus_responder import Responder as Meter

DRAFT = Draft("s", 0, ClockState(True, "b", 0), 0, {"int": Columns([0], [0], [1], [0])})


# The page


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", b"200 OK", b"page \xc3\xa9"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200 OK", b"page \xc3\xa9"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200 OK", b""),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found", b"there is only /metrics\n"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed", b"allowed: GET, HEAD\n"),
        (b"nonsense\r\n\r\n", b"400 Bad Request", b"not HTTP/1\n"),
    ],
)
async def test_the_responder_answers_each_request(request_: bytes, status: bytes, body: bytes) -> None:
    async def page() -> str:
        return "page é"

    responder = Responder("/metrics", page)
    port = await responder.start("127.0.0.1", 0)
    try:
        head, _, found = (await ask(port, request_)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert found == body
        if body:
            assert f"Content-Length: {len(body)}".encode() in head
    finally:
        await responder.stop()


async def test_a_page_that_fails_and_a_head_too_long_leave_the_responder_alive() -> None:
    async def page() -> str:
        raise ValueError("no")

    responder = Responder("/metrics", page)
    port = await responder.start("127.0.0.1", 0)
    try:
        assert await ask(port, b"GET /metrics HTTP/1.1\r\n" + b"a" * 100_000) == b""
        assert b"500 Internal" in await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    except ConnectionResetError:
        assert b"500 Internal" in await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    finally:
        await responder.stop()


async def test_clients_that_say_nothing_do_not_pile_up_and_do_not_hold_up_the_end() -> None:
    async def page() -> str:
        return "x"

    responder = Responder("/metrics", page)
    port = await responder.start("127.0.0.1", 0)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
    # Those beyond the limit are hung up on at once.
    done, _ = await asyncio.wait([asyncio.ensure_future(reader.read()) for reader, _ in idle[8:]], timeout=30)
    assert len(done) == 4
    for task in done:
        assert task.exception() is not None or task.result() == b""
    await asyncio.wait_for(responder.stop(), 30)
    for _, writer in idle:
        writer.transport.abort()
    await asyncio.sleep(0)


# The text


def test_labels_and_help_are_escaped() -> None:
    text = exposition([Family("x", "counter", "a\nb", (({"l": 'q"\\\n'}, 1), ({}, 0.5)))])
    assert text.splitlines() == [
        "# HELP metercarbon_agent_x_total a\\nb",
        "# TYPE metercarbon_agent_x_total counter",
        'metercarbon_agent_x_total{l="q\\"\\\\\\n"} 1',
        "metercarbon_agent_x_total 0.5",
    ]


def test_a_duration_is_counted_in_the_first_class_that_holds_it() -> None:
    found = Histogram()
    for duration_s in (0.0, 0.01, 0.0100001, 299.0, 300.0, 301.0, 1e9):
        found.add(duration_s)
    counts = dict(zip((*BOUNDS_S, "more"), found.cumulative(), strict=True))
    assert (counts[0.01], counts[0.025], counts[60.0], counts[300.0], counts["more"]) == (2, 3, 3, 5, 7)
    assert found.last_s == 1e9
    assert found.total_s == pytest.approx(1e9 + 900.02)


async def test_what_a_crew_does_is_in_the_metrics() -> None:
    def handler(asked: Asked) -> Reply:
        return None if asked.unit == 9 else asked.counting()

    async with Meter(handler) as meter:
        plan = edge.plan(
            edge.head(),
            edge.modbus(meter.port, extra="timeout_s = 0.2"),
            edge.device("mill", edge.register("a", 1), extra="poll_interval_s = 0.1"),
            edge.device("dead", edge.register("a", 1), unit_id=9, extra="poll_interval_s = 0.1"),
        )
        signals = Signals()
        commits = Commits(Catcher(plan.schema).write)
        crew = Crew(plan, Clock(REAL_TIME, simulated=True), commits, signals)
        crew.start()
        deadline = time.monotonic() + 60
        while not (crew.lines[0].polls["mill"] > 3 and crew.lines[0].failed["dead"] > 1):
            assert time.monotonic() < deadline
            assert crew.failure is None
            await asyncio.sleep(0.02)
        assert await crew.stop() is None
        stats = Stats(("e",), 5, 3, 2, 4096, 1_000_000)
        text = exposition(families(signals, crew, commits, stats, 61_000_000))
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    prefix = "metercarbon_agent_"
    assert int(values[prefix + 'polls_total{connection="bus",device="mill"}']) == crew.lines[0].polls["mill"]
    assert values[prefix + 'polls_failed_total{connection="bus",device="mill"}'] == "0"
    assert int(values[prefix + 'polls_failed_total{connection="bus",device="dead"}']) > 1
    assert values[prefix + 'points_bad{device="dead"}'] == "1"
    assert values[prefix + 'points_bad{device="mill"}'] == "0"
    assert 0 <= float(values[prefix + 'poll_lag_seconds{connection="bus"}']) < 0.1
    assert float(values[prefix + 'bus_busy_seconds_total{connection="bus"}']) > 0
    assert int(values[prefix + "outbox_commits_total"]) == commits.count > 0
    assert values[prefix + "oldest_pending_age_seconds"] == "60.0"
    assert values[prefix + "outbox_bytes"] == "4096"
    # Without an answer of the buffer its own figures are left out, the others stay.
    without = exposition(families(signals, crew, commits, None, 0))
    assert "outbox_bytes" not in without
    assert "outbox_commits_total" in without


async def test_a_crew_that_stops_lets_the_poll_under_way_end_and_keeps_what_it_read() -> None:
    asked_one, answer = asyncio.Event(), asyncio.Event()

    class Slow:
        name = "bus"
        turns = (Turn("mill", Timing(US // 10, 0)),)
        polls = 0

        async def poll(self, turn: int) -> None:
            self.polls += 1
            asked_one.set()
            await answer.wait()
            crew.reporter.good(0, 7, 0, 1)

        async def close(self) -> None:
            assert answer.is_set()

    plan = edge.plan(edge.head(), edge.modbus(1), edge.device("mill", edge.register("a", 1)))
    catcher = Catcher(plan.schema)
    clock = Clock(REAL_TIME, simulated=True)
    crew = Crew(plan, clock, catcher.write, Signals())
    driver = Slow()
    crew.lines = [Line(driver, {"mill": [0]}, clock, crew.reporter)]
    crew.start()
    await asyncio.wait_for(asked_one.wait(), 60)
    stopping = asyncio.create_task(crew.stop())
    await asyncio.sleep(0.3)
    assert not stopping.done()
    answer.set()
    assert await stopping is None
    assert [reading.value for reading in catcher.take()] == [7]
    assert driver.polls == 1


# Progress


def test_batches_are_timed_until_they_are_on_disk() -> None:
    future: Future[None] = Future()
    commits = Commits(lambda _: future)
    commits(DRAFT)
    time.sleep(0.01)
    assert commits.oldest_s() > 0
    assert commits.count == 0
    future.set_result(None)
    assert (commits.oldest_s(), commits.count) == (0, 1)
    assert commits.total_s == commits.last_s > 0


async def test_a_poll_that_does_not_end_and_polls_that_do_not_come_are_trouble() -> None:
    class Stuck:
        name = "bus"
        turns = (Turn("mill", Timing(US // 100, 0)),)

        async def poll(self, turn: int) -> None:
            await asyncio.sleep(0.1)

        async def close(self) -> None:
            return

    plan = edge.plan(edge.head(), edge.modbus(1), edge.device("mill", edge.register("a", 1)))
    clock = Clock(REAL_TIME, simulated=True)
    crew = Crew(plan, clock, Catcher(plan.schema).write, Signals())
    line = Line(Stuck(), {"mill": [0]}, clock, Reporter(plan.schema, crew.batcher))
    assert line.trouble(60) is None
    task = asyncio.create_task(line.poll(0))
    await asyncio.sleep(0.02)
    assert line.trouble(0.001) == "a poll on connection bus has not ended for 0.001 s"
    assert line.trouble(60) is None
    await task
    await asyncio.sleep(0.05)
    assert "connection bus has not been polled" in str(line.trouble(0.001))
    assert line.trouble(60) is None


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd is for a service: a datagram socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.setblocking(False)
        yield found


def heard(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(1000).decode())
        except BlockingIOError:
            return found


def test_the_watchdog_is_fed_only_without_trouble(manager: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "40000"})
    notifier.feed(lambda _: None)
    notifier.feed(lambda _: None)
    # Often enough, not more often.
    assert heard(manager) == ["WATCHDOG=1"]
    time.sleep(0.02)
    notifier.feed(lambda limit_s: f"stuck for {limit_s} s")
    notifier.feed(lambda limit_s: f"stuck for {limit_s} s")
    assert heard(manager) == []
    assert [record.message for record in caplog.records] == ["the watchdog is not fed any more: stuck for 0.04 s"]
    notifier.feed(lambda _: None)
    assert heard(manager) == ["WATCHDOG=1"]


def test_systemd_hears_of_start_reload_and_end(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    notifier.feed(lambda _: None)
    ready, reloading, stopping = heard(manager)
    assert (ready, stopping) == ("READY=1", "STOPPING=1")
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")


def test_an_abstract_socket_is_reached() -> None:
    name = f"metercarbon-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind("\0" + name)
        found.setblocking(False)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert heard(found) == ["READY=1"]


def test_without_systemd_and_with_one_that_is_gone_the_agent_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({}).ready()
    assert not caplog.records
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready()
    assert "systemd can't be told READY=1" in caplog.text
    # Meant for another process.
    assert Notifier({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).watchdog_s is None

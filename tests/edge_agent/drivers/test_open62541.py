"""The OPC-UA driver against a server on open62541."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509

from edge_agent.__main__ import main
from edge_agent.buffer.batcher import Batcher
from edge_agent.drivers.opcua_security import fingerprint, own_certificate
from protocols.quality import Quality
from protocols.timebase import US
from tests.support import edge
from tests.support.edge import Seen
from tests.support.open62541 import Server
from tests.support.plc import JUNE_US, bench

pytestmark = pytest.mark.services

SUBSCRIBE = """mode = "subscribe"
publish_interval_s = 0.1
sampling_interval_s = 0.05
silence_limit_s = 1
reconcile_interval_s = 0.3
"""
LEVEL = edge.node("level", "ns=2;s=level")
RAMP = edge.node("ramp", "ns=2;s=ramp")
NEW_MILLENNIUM_US = 946_684_801_000_000
"""One second after a controller began to count from 2000-01-01."""
MODES = {"poll": "", "subscribe": SUBSCRIBE}

Serve = Callable[..., Server]


@pytest.fixture
def serve(open62541_server: list[str], unused_tcp_port: int, tmp_path: Path) -> Serve:
    """Makes a server with options."""
    return lambda *options: Server(open62541_server, unused_tcp_port, tmp_path / "open62541.log", *options)


@pytest.fixture(scope="module")
def server_identity(open62541_server: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with a certificate that open62541 made."""
    directory = tmp_path_factory.mktemp("server")
    subprocess.run([*open62541_server, "make", str(directory)], check=True, timeout=60, capture_output=True)
    return directory


def node(name: str, value_type: str = "float") -> str:
    return edge.node(name, f"ns=2;s={name}", value_type)


def has(name: str, value: object) -> Callable[[list[Seen]], bool]:
    return lambda seen: any(reading.name == f"kiln/{name}" and reading.value == value for reading in seen)


def turned(name: str, quality: Quality) -> Callable[[list[Seen]], bool]:
    return lambda seen: any(reading.name == f"kiln/{name}" and reading.quality == quality for reading in seen)


def last(seen: list[Seen]) -> dict[str, object]:
    return {reading.name.removeprefix("kiln/"): reading.value for reading in seen}


@pytest.mark.parametrize("mode", MODES)
async def test_every_type_is_what_open62541_holds(serve: Serve, mode: str) -> None:
    async with serve() as server:
        held = {name: value for name, (_, value) in server.held().items()}
        assert len(held) == 12
        tags = [*server.tags(), node("array"), node("time")]
        async with bench(server.endpoint, *tags, extra=MODES[mode]) as found:
            seen = await found.care(lambda seen: len(last(seen)) == len(tags))
            assert last(seen) == held | {"array": None, "time": None}
            bad = {reading.name: reading.quality for reading in seen if reading.value is None}
            assert bad == {"kiln/array": Quality.BAD_NONSENSE, "kiln/time": Quality.BAD_NONSENSE}


@pytest.mark.parametrize("mode", MODES)
async def test_a_value_has_the_time_that_its_source_gave_it(serve: Serve, mode: str) -> None:
    async with serve() as server, bench(server.endpoint, LEVEL, extra=MODES[mode]) as found:
        await found.care(has("level", 100))
        await server.order("write", "level", 120, JUNE_US)
        seen = await found.care(has("level", 120))
        assert [reading.at_us for reading in seen if reading.value == 120] == [JUNE_US]
        await server.order("bad", "level")
        seen = await found.care(turned("level", Quality.BAD_DEVICE_FAILURE))
        await server.order("write", "level", 121, 0)
        await found.care(has("level", 121))


@pytest.mark.parametrize("mode", MODES)
async def test_the_time_of_a_controller_whose_clock_was_reset_is_not_believed(serve: Serve, mode: str) -> None:
    async with serve() as server, bench(server.endpoint, LEVEL, extra=MODES[mode]) as found:
        await found.care(has("level", 100))
        before_us = time.time_ns() // 1000
        await server.order("write", "level", 120, NEW_MILLENNIUM_US)
        [reading] = [reading for reading in await found.care(has("level", 120)) if reading.value == 120]
        assert before_us - US <= reading.at_us <= time.time_ns() // 1000
        await server.order("write", "level", 121, JUNE_US)
        seen = await found.care(has("level", 121))
        assert [reading.at_us for reading in seen if reading.value == 121] == [JUNE_US]


async def test_changes_of_a_subscribed_node_arrive_in_order_and_none_is_lost(serve: Serve) -> None:
    # Published less often than sampled.
    extra = SUBSCRIBE.replace("sampling_interval_s = 0.05", "sampling_interval_s = 0.02")
    async with serve() as server, bench(server.endpoint, LEVEL, RAMP, extra=extra) as found:
        await found.care(has("level", 100), 1)
        seen: list[Seen] = []
        for value in range(1, 26):
            await server.order("write", "level", value, 0)
            await asyncio.sleep(0.03)
            seen += await found.taken()
        if not has("level", 25)(seen):
            seen += await found.care(has("level", 25), 1)
        level, ramp = ([one for one in seen if one.name == f"kiln/{name}"] for name in ("level", "ramp"))
        assert [reading.value for reading in level] == list(range(1, 26))
        assert {reading.quality for reading in seen} == {Quality.GOOD}
        for readings in (level, ramp):
            assert all(later.at_us > earlier.at_us for earlier, later in pairwise(readings))


async def test_a_subscription_that_falls_silent_is_made_anew_on_one_connection(serve: Serve) -> None:
    # Its silence alone must tell, not a request without an answer.
    extra = SUBSCRIBE.replace("reconcile_interval_s = 0.3", "reconcile_interval_s = 3600")
    async with serve() as server, bench(server.endpoint, LEVEL, extra=extra) as found:
        await found.care(has("level", 100))
        server.stall()
        await found.care(turned("level", Quality.BAD_NO_COMMUNICATION), 1)
        server.go_on()
        await found.care(has("level", 100))
        await server.order("write", "level", 8, 0)
        await found.care(has("level", 8))
        assert server.connections == 1


async def test_without_limits_of_the_server_the_agents_own_hold(serve: Serve) -> None:
    tags = [node(f"n{n}") for n in range(300)]
    async with serve() as server:
        async with bench(server.endpoint, *tags) as found:
            assert len(await found.poll()) == 300
            # Of its limits, and of 200 and 100 nodes.
            assert found.signals.requests == 1 + 2
        async with bench(server.endpoint, *tags, extra=SUBSCRIBE) as found:
            await found.care(lambda seen: len(last(seen)) == 300, 1)
            assert found.signals.requests == 1 + 2 + 2


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_comes_up_after_the_agent_is_read(serve: Serve, mode: str) -> None:
    server = serve()
    async with bench(server.endpoint, LEVEL, extra=MODES[mode]) as found:
        await found.care(turned("level", Quality.BAD_NO_COMMUNICATION))
        async with server:
            await found.care(has("level", 100))


async def test_a_server_that_stalls_for_a_moment_keeps_its_session(serve: Serve) -> None:
    async with serve() as server, bench(server.endpoint, LEVEL) as found:
        await found.care(has("level", 100))
        server.stall()
        await asyncio.sleep(2.5)
        server.go_on()
        await server.order("write", "level", 8, 0)
        await found.care(has("level", 8))
        assert server.sessions == ["Good"]
        assert not found.signals.failures


async def test_reads_and_items_keep_to_the_limits_that_the_server_tells(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    tags = [node(f"n{n}") for n in range(100)]
    async with serve("-r", 30, "-i", 20) as server:
        async with bench(server.endpoint, *tags) as found:
            assert {name: seen.value for name, seen in (await found.poll()).items()} == {f"n{n}": n for n in range(100)}
            # Of its limits, and of its nodes.
            assert found.signals.requests == 1 + 4
        async with bench(server.endpoint, *tags, extra=SUBSCRIBE) as found:
            await found.care(lambda seen: len(last(seen)) == 100, 1)
            # Of its limits; a subscription, its clock, and its nodes.
            assert found.signals.requests == 1 + 2 + 5
    assert "at once from now on" not in caplog.text


@pytest.mark.parametrize("mode", MODES)
async def test_a_node_that_is_unknown_costs_no_other_and_is_found_when_it_comes(serve: Serve, mode: str) -> None:
    async with serve() as server, bench(server.endpoint, LEVEL, node("later"), RAMP, extra=MODES[mode]) as found:
        seen = await found.care(lambda seen: len(last(seen)) == 3)
        qualities = {reading.name.removeprefix("kiln/"): reading.quality for reading in seen}
        assert qualities == {"level": 0, "later": Quality.BAD_CONFIGURATION, "ramp": 0}
        await server.order("add", "later", 3.5)
        await found.care(has("later", 3.5))


@pytest.mark.parametrize("mode", MODES)
async def test_a_node_that_goes_away_is_bad_and_good_again_when_it_is_back(serve: Serve, mode: str) -> None:
    async with serve() as server, bench(server.endpoint, LEVEL, RAMP, extra=MODES[mode]) as found:
        await found.care(has("level", 100))
        await server.order("remove", "level")
        await found.care(turned("level", Quality.BAD_CONFIGURATION))
        await server.order("add", "level", 7)
        await found.care(has("level", 7))
        await server.order("write", "level", 8, 0)
        await found.care(has("level", 8))


@pytest.mark.parametrize("mode", MODES)
async def test_after_a_restart_everything_comes_back_in_one_session(serve: Serve, mode: str) -> None:
    async with serve() as server, bench(server.endpoint, LEVEL, RAMP, extra=MODES[mode]) as found:
        await found.care(has("level", 100))
        server.kill()
        await found.care(turned("level", Quality.BAD_NO_COMMUNICATION))
        await server.start()
        await found.care(has("level", 100))
        await server.order("write", "level", 8, 0)
        await found.care(has("level", 8))
        assert server.sessions == ["Good", "Good"]
        assert found.signals.bus_reconnects == 1


@pytest.mark.parametrize("mode", MODES)
async def test_a_session_that_the_server_closes_is_made_anew(serve: Serve, mode: str) -> None:
    async with serve() as server, bench(server.endpoint, LEVEL, extra=MODES[mode]) as found:
        await found.care(has("level", 100))
        await server.order("close")
        await server.order("write", "level", 8, 0)
        await found.care(has("level", 8))
        assert server.sessions == ["Good", "Good"]


async def test_what_the_server_drops_while_the_disk_is_slow_is_flagged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, waiting = asyncio.Event(), asyncio.Event()

    async def room(_batcher: Batcher) -> None:
        waiting.set()
        await gate.wait()

    async with serve() as server, bench(server.endpoint, LEVEL, extra=SUBSCRIBE) as found:
        await found.care(has("level", 100), 1)
        with monkeypatch.context() as patch:
            patch.setattr(Batcher, "room", room)
            await server.order("write", "level", 1, 0)
            await waiting.wait()
            for value in range(2, 14):
                await server.order("write", "level", value, 0)
                # Longer than the sampling interval: each is queued.
                await asyncio.sleep(0.07)
            gate.set()
            seen = await found.care(has("level", 13), 1)
        # What was lost came right before what is flagged, and nothing was lost elsewhere.
        steps = [(float(later.value or 0) - float(one.value or 0), later.quality) for one, later in pairwise(seen)]
        assert [quality for step, quality in steps if step > 1] == [Quality.UNCERTAIN_OVERFLOW]
        assert {quality for step, quality in steps if step == 1} == {Quality.GOOD}
        assert len(seen) < 13


async def test_a_deadband_in_percent_is_one_of_the_nodes_range(serve: Serve) -> None:
    tag = edge.node("level", "ns=2;s=level", extra="deadband_percent = 5")
    async with serve() as server, bench(server.endpoint, tag, extra=SUBSCRIBE) as found:
        await found.care(has("level", 100), 1)
        # 5 % of 0 to 200.
        for value in (109, 91, 111):
            await server.order("write", "level", value, 0)
            await asyncio.sleep(0.2)
        seen = await found.care(has("level", 111), 1)
        assert {reading.value for reading in seen} == {111}
        assert not found.signals.failures


async def test_a_deadband_where_the_node_has_no_range_is_done_without(serve: Serve) -> None:
    tag = edge.node("n5", "ns=2;s=n5", extra="deadband_percent = 5")
    async with serve() as server, bench(server.endpoint, tag, LEVEL, extra=SUBSCRIBE) as found:
        await found.care(lambda seen: has("n5", 5)(seen) and has("level", 100)(seen))
        await server.order("write", "n5", 5.001, 0)
        await found.care(has("n5", 5.001), 1)


def secured(tmp_path: Path, pin: str, extra: str = "") -> str:
    return f'security = {{ directory = "{tmp_path / "own"}", server_fingerprint = "{pin}" }}\n{extra}'


def pin_of(directory: Path) -> str:
    return fingerprint(x509.load_der_x509_certificate((directory / "certificate.der").read_bytes()))


async def own(directory: Path) -> Path:
    """The agent's certificate, made before it connects so that the server can trust it."""
    made = await asyncio.to_thread(own_certificate, directory / "own", datetime.now(UTC))
    return made[0]


@pytest.mark.parametrize("mode", MODES)
async def test_a_signed_and_encrypted_channel_needs_trust_on_both_sides(
    serve: Serve, tmp_path: Path, server_identity: Path, mode: str
) -> None:
    extra = secured(tmp_path, pin_of(server_identity), MODES[mode])
    async with (
        serve("-c", server_identity, "-t", await own(tmp_path)) as server,
        bench(server.endpoint, LEVEL, RAMP, extra=extra) as found,
    ):
        await found.care(has("level", 100))
        await server.order("write", "level", 8, 0)
        await found.care(has("level", 8))
        assert not found.signals.failures


async def test_a_server_with_another_certificate_is_refused_before_a_session(
    serve: Serve, tmp_path: Path, server_identity: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = secured(tmp_path, "0" * 64)
    async with serve("-c", server_identity) as server, bench(server.endpoint, LEVEL, extra=extra) as found:
        assert (await found.poll())["level"].quality == Quality.BAD_NO_COMMUNICATION
        assert f"fingerprint {pin_of(server_identity)}; allowed: {'0' * 64}" in caplog.text
        assert server.sessions == []


async def test_a_server_that_does_not_trust_the_agent_is_bad_and_the_log_says_so(
    serve: Serve, tmp_path: Path, server_identity: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = await own(tmp_path / "stranger")
    extra = secured(tmp_path, pin_of(server_identity))
    async with (
        serve("-c", server_identity, "-t", stranger) as server,
        bench(server.endpoint, LEVEL, extra=extra) as found,
    ):
        assert (await found.poll())["level"].quality == Quality.BAD_NO_COMMUNICATION
        assert server.sessions == []
    told = f"the server refuses the agent's certificate {tmp_path / 'own' / 'certificate.der'}, which it must trust"
    assert told in caplog.text


@pytest.mark.parametrize("channel", ["secured", "plain"])
async def test_a_user_comes_in_with_the_right_password_only(
    serve: Serve, tmp_path: Path, server_identity: Path, caplog: pytest.LogCaptureFixture, channel: str
) -> None:
    password = tmp_path / "password"
    user = f'username = "agent"\npassword_file = "{password}"\n'
    options: list[object] = ["-p", "secret"]
    if channel == "secured":
        user = secured(tmp_path, pin_of(server_identity), user)
        options += ["-c", server_identity]
    await asyncio.to_thread(password.write_text, "wrong")
    async with serve(*options) as server, bench(server.endpoint, LEVEL, extra=user) as found:
        assert (await found.poll())["level"].quality == Quality.BAD_NO_COMMUNICATION
        assert server.sessions == ["BadUserAccessDenied"]
        told = "connection dcs: cannot connect, trying again: the server refuses user 'agent' with this password"
        assert told in caplog.text
        await asyncio.to_thread(password.write_text, "secret\n")
        await found.care(has("level", 100))


async def test_a_probe_shows_what_open62541_holds(
    serve: Serve, tmp_path: Path, server_identity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    password = tmp_path / "password"
    await asyncio.to_thread(password.write_text, "secret")
    extra = secured(tmp_path, pin_of(server_identity), f'username = "agent"\npassword_file = "{password}"')
    tags = [LEVEL, node("missing"), node("int64", "int"), node("bool", "bool")]
    path = tmp_path / "agent.toml"
    async with serve("-c", server_identity, "-p", "secret") as server:
        parts = [
            edge.head(tmp_path / "buffer.sqlite", 1),
            edge.opcua(server.endpoint, extra=extra),
            edge.device("kiln", *tags, connection="dcs", unit_id=None),
        ]
        await asyncio.to_thread(path.write_text, "\n".join(parts))
        code = await asyncio.to_thread(main, ["probe", str(path)])
    out = re.sub(r"\d+\.\d ms", "T ms", capsys.readouterr().out).splitlines()
    assert out == [
        "connection dcs: T ms",
        "  device kiln",
        "    level (ns=2;s=level): 100.0 degC, good",
        "    missing (ns=2;s=missing): no value, bad_configuration",
        "    int64 (ns=2;s=int64): -9007199254740993 degC, good",
        "    bool (ns=2;s=bool): True 1, good",
        "3 of 4 tags are good",
    ]
    assert code == 1

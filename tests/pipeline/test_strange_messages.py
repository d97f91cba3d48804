"""Whatever stands in a message, ingest goes on, and the message is found again with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from deploy.local.broker import Broker
from deploy.local.processes import Child
from protocols import topics
from tests.support.fake_agent import JUNE_US, SECOND_US, FakeAgent, Sent
from tests.support.publisher import Publisher
from tests.support.waiting import wait_until


def test_strange_messages_are_set_aside_with_the_reason_and_stop_nothing(
    plain_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    config = tmp_path / "ingest.toml"
    config.write_text(
        f"roles = ['ingest']\n[store]\ndsn = '''{plain_database_dsn}'''\n"
        f"[mqtt]\nhost = '{mosquitto.host}'\nport = {mosquitto.port}\n"
    )
    good, stranger, victim = FakeAgent(), FakeAgent(name="stranger"), FakeAgent(name="victim")
    command = [sys.executable, "-m", "cloud_ingest", "run", str(config)]
    with (
        Child("cloud-ingest", command, tmp_path / "ingest.log") as ingest,
        Publisher(mosquitto) as publisher,
        closing(psycopg.connect(plain_database_dsn, autocommit=True)) as conn,
    ):
        # Whatever is published before ingest has subscribed would pass it by, but for retained messages.
        publisher.send(good.session(), good.birth(), retain=True)
        wait_until(lambda: any(message.answers for message in publisher.heard(good)), "ingest listens")
        tomorrow_us = time.time_ns() // 1000 + 86_400 * SECOND_US
        claimed = victim.floats(6.0).payload
        late_birth = FakeAgent(name="late", site="elsewhere")
        born = late_birth.birth()
        strange = {
            "bytes": Sent(good.topic(), b"\x00\xff\xfe not JSON"),
            "form": Sent(good.topic(), json.dumps({"temperature": 21.5}).encode()),
            "version": Sent(good.topic(), good.floats(1.0, seq=1000).payload.replace(b'"v":1,', b'"v":9,', 1)),
            "other agent": Sent(topics.data(stranger.tenant, stranger.name, "json1"), claimed),
            "other tenant": Sent(topics.data("globex", victim.name, "json1"), claimed),
            "codec": Sent(topics.data(good.tenant, good.name, "sparkplug"), good.floats(2.0, seq=1001).payload),
            "topic": Sent(f"{topics.ROOT}/{good.tenant}/a b/data/json1", good.floats(3.0, seq=1002).payload),
            "no birth": late_birth.floats(7.0, 8.0),
            "future": good.floats(4.0, first_s=(tomorrow_us - JUNE_US) / SECOND_US),
        }
        for number, message in enumerate(strange.values()):
            publisher.send(message, good.floats(100.0 + number, first_s=number))
        publisher.wait_covered(good)
        wanted = [100.0 + number for number in range(len(strange))]
        assert _values(conn) == wanted
        assert _parked(conn) == [("the schema is not known", strange["no birth"].payload)]
        # Its agent is answered: the bytes are in the database.
        publisher.wait_covered(late_birth, {2})

        publisher.send(born, retain=True)
        wait_until(lambda: len(_values(conn)) == len(wanted) + 2, "the parked batch is replayed")
        publisher.send(strange["no birth"], born, *strange.values())
        last = good.floats(999.0, first_s=999)
        publisher.send(last)
        publisher.wait_covered(good)
        assert _values(conn) == [7.0, 8.0, *wanted, 999.0]
        assert _parked(conn) == []
        quarantined = conn.execute("SELECT value, reason FROM quarantine").fetchall()
        assert quarantined == [("4.0", "in the future")]
        letters = _letters(conn)
        ingest.require()
        _require_reasons(letters, strange)
        assert ingest.stop() == 0
    _require_listed(config, len(letters))


def _require_reasons(letters: dict[tuple[str, bytes], tuple[str, str, int]], strange: dict[str, Sent]) -> None:
    expected = {
        "bytes": ("undecodable", "batch is not JSON"),
        "form": ("undecodable", "batch has unknown key 'temperature'; allowed: agent, at"),
        "version": ("undecodable", "batch has version 9; allowed: 1"),
        "other agent": ("identity", "the payload claims acme/victim"),
        "other tenant": ("identity", "the payload claims acme/victim"),
        "codec": ("undecodable", "codec 'sparkplug' is unknown; known: json1"),
        "topic": ("topic", "agent 'a b' is not allowed"),
    }
    found = {name: letters[strange[name].topic, strange[name].payload] for name in expected}
    assert len(found) == len(letters)
    for name, (kind, reason) in expected.items():
        assert found[name][0] == kind, name
        assert reason in found[name][1], name
        # It came twice and is kept once.
        assert found[name][2] == 2, name


def _require_listed(config: Path, count: int) -> None:
    """The command line shows them too."""
    listed = subprocess.run(
        [sys.executable, "-m", "cloud_ingest", "dlq", "list", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [json.loads(line) for line in listed.stdout.splitlines()]
    assert len(lines) == count
    assert all(line["reason"] for line in lines)


def _values(conn: psycopg.Connection[tuple[Any, ...]]) -> list[float]:
    return [row[0] for row in conn.execute("SELECT value FROM reading_float ORDER BY value").fetchall()]


def _parked(conn: psycopg.Connection[tuple[Any, ...]]) -> list[tuple[str, bytes]]:
    return [(reason, bytes(payload)) for reason, payload in conn.execute("SELECT reason, payload FROM parked")]


def _letters(conn: psycopg.Connection[tuple[Any, ...]]) -> dict[tuple[str, bytes], tuple[str, str, int]]:
    rows = conn.execute("SELECT topic, payload, kind, reason, times FROM dead_letter").fetchall()
    return {(topic, bytes(payload)): (kind, reason, times) for topic, payload, kind, reason, times in rows}

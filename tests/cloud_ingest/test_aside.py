"""The commands for what was put aside, as an operator uses them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloud_ingest.__main__ import main
from cloud_ingest.ingest.write import Flush
from cloud_ingest.signals import Signals
from cloud_ingest.store import pool
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.pool import Connection
from tests.support.fake_agent import JUNE_US, SECOND_US, FakeAgent, Sent

Run = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def conn(plain_database_dsn: str) -> Iterator[Connection]:
    with pool.connect(plain_database_dsn, "test", autocommit=True) as found:
        migrate(found)
        yield found


@pytest.fixture
def run(conn: Connection, plain_database_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; gives its exit code and what it prints."""
    config = tmp_path / "ingest.toml"
    config.write_text(f"roles = ['settle']\n[store]\ndsn = '''{plain_database_dsn}'''\n")

    def call(command: str, action: str, *arguments: str | int) -> tuple[int, list[dict[str, Any]]]:
        code = main([command, action, str(config), *map(str, arguments)])
        printed = capsys.readouterr().out
        if action == "show":
            return code, [orjson.loads(printed)]
        return code, [orjson.loads(line) for line in printed.splitlines()]

    return call


def store(conn: Connection, *sent: Sent) -> None:
    Flush(conn, 7, 600.0, Signals()).store([message.parsed() for message in sent])


def values(conn: Connection) -> list[float]:
    return [row[0] for row in conn.execute("SELECT value FROM reading_float ORDER BY value").fetchall()]


def test_dead_letters_are_listed_in_pages_and_by_filters(conn: Connection, run: Run) -> None:
    agent, other = FakeAgent(), FakeAgent(name="gw2", site="mine")
    store(conn, *(Sent(agent.topic(), b"%d" % n) for n in range(3)), Sent(other.topic(), b"x"), Sent("nowhere", b"x"))
    code, listed = run("dlq", "list", "--limit", 2)
    assert code == 0
    assert [letter["kind"] for letter in listed] == ["topic", "undecodable"]
    _, rest = run("dlq", "list", "--below", listed[-1]["id"])
    assert [letter["agent"] for letter in rest] == ["gw1"] * 3
    assert len(run("dlq", "list", "--agent", "gw1", "--kind", "undecodable", "--tenant", "acme")[1]) == 3
    assert len(run("dlq", "list", "--reason", "JSON")[1]) == len(
        [letter for letter in [*listed, *rest] if "json" in letter["reason"].lower()]
    )
    with pytest.raises(SystemExit) as refused:
        run("dlq", "list", "--kind", "odd")
    assert refused.value.code == 2


def test_a_letter_is_rehearsed_and_replayed_by_command(conn: Connection, run: Run) -> None:
    agent = FakeAgent()
    flush = Flush(conn, 7, 600.0, Signals())
    store(conn, agent.birth())
    for n in range(3):
        flush.store([agent.floats(float(n)).parsed().killed("poison", "a fault of ours")])
    store(conn, Sent(agent.topic(), b"never"))
    first, second, third, never = (letter["id"] for letter in reversed(run("dlq", "list")[1]))
    code, told = run("dlq", "replay", first, "--dry-run")
    assert code == 0
    assert told == [{"id": first, "fate": "stored", "kind": "", "reason": "", "dry_run": True}]
    assert values(conn) == []
    code, told = run("dlq", "replay", first, first, 999)
    assert code == 1
    assert [(each["id"], each["fate"]) for each in told] == [(first, "stored"), (999, "gone")]
    assert told[1]["reason"] == "there is no dead letter 999"
    assert values(conn) == [0.0]
    code, told = run("dlq", "replay", "--kind", "poison")
    assert (code, [each["id"] for each in told]) == (0, [second, third])
    code, told = run("dlq", "replay", "--all")
    assert (code, [(each["id"], each["fate"], each["kind"]) for each in told]) == (1, [(never, "dead", "undecodable")])
    assert values(conn) == [0.0, 1.0, 2.0]
    assert run("dlq", "replay", "--kind", "poison") == (0, [])
    code, (shown,) = run("dlq", "show", never)
    assert (code, shown["payload"]) == (0, "never")
    assert run("dlq", "show", first)[0] == 1
    for wrong in (10**30, 0, "x"):
        with pytest.raises(SystemExit):
            run("dlq", "show", wrong)


@pytest.mark.parametrize(
    ("command", "action"),
    [("dlq", "replay"), ("dlq", "discard"), ("quarantine", "release"), ("quarantine", "discard")],
)
def test_nothing_is_done_unless_it_is_clear_to_what(
    run: Run, capsys: pytest.CaptureFixture[str], command: str, action: str
) -> None:
    why = ["--why", "because"]
    for arguments in ([], ["1", "--all"], ["1", "--agent", "gw1"], ["--all", "--agent", "gw1"]):
        assert run(command, action, *arguments, *why) == (2, [])
    if action == "discard":
        for arguments in (["--all"], ["--all", "--why", " "]):
            with pytest.raises(SystemExit) as refused:
                run(command, action, *arguments)
            assert refused.value.code == 2
            assert "--why" in capsys.readouterr().err


def test_a_letter_is_discarded_with_a_reason(conn: Connection, run: Run) -> None:
    agent = FakeAgent()
    store(conn, Sent(agent.topic(), b"1"), Sent(agent.topic(), b"2"))
    first = run("dlq", "list")[1][-1]["id"]
    code, told = run("dlq", "discard", first, 77, "--why", "a test device", "--who", "carol")
    assert code == 1
    assert [(each["id"], each["fate"]) for each in told] == [(first, "discarded"), (77, "gone")]
    assert conn.execute("SELECT who, why, detail->'letter'->>'id' FROM operator_action").fetchall() == [
        ("carol", "a test device", str(first))
    ]
    assert run("dlq", "discard", "--agent", "gw1", "--why", "scrap")[0] == 0
    assert run("dlq", "list") == (0, [])


def test_readings_are_released_and_discarded_by_command(conn: Connection, run: Run) -> None:
    agent = FakeAgent()
    days_s = (time.time_ns() // 1000 - JUNE_US) // SECOND_US + 10 * 86_400
    store(conn, agent.birth(), agent.floats(1.0, 2.0, first_s=days_s), agent.floats(3.0, first_s=-JUNE_US / SECOND_US))
    code, listed = run("quarantine", "list")
    assert (code, [reading["value"] for reading in listed]) == (0, ["3.0", "2.0", "1.0"])
    absurd, second, first = (reading["id"] for reading in listed)
    code, told = run("quarantine", "release", first, absurd, 999)
    assert (code, told[0]) == (1, {"released": 0, "left": 3})
    reasons = {each["id"]: each["reason"] for each in told[1:]}
    assert "still in the future" in reasons[first]
    assert "before the year 2000" in reasons[absurd]
    assert reasons[999] == "reading 999 in quarantine: there is no such reading"
    assert values(conn) == []
    assert run("quarantine", "release", first, f"--shift-s={-10 * 86_400}") == (0, [{"released": 1, "left": 0}])
    code, told = run("quarantine", "release", first)
    assert code == 1
    assert told[1]["reason"] == f"reading {first} in quarantine: it is released already"
    assert run("quarantine", "discard", absurd, "--why", "1970") == (0, [{"discarded": 1, "left": 0}])
    assert run("quarantine", "discard", absurd, "--why", "1970")[0] == 1
    assert [reading["id"] for reading in run("quarantine", "list", "--state", "discarded")[1]] == [absurd]
    assert [reading["id"] for reading in run("quarantine", "list", "--point", "plant/meter/energy")[1]] == [second]
    assert run("quarantine", "release", "--agent", "gw1", "--shift-s=-864000")[0] == 0
    assert values(conn) == [1.0, 2.0]
    for wrong in ("nan", "1e12", "soon"):
        with pytest.raises(SystemExit):
            run("quarantine", "release", "--all", f"--shift-s={wrong}")

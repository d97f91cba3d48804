"""The commands that start an installation from nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_ingest.__main__ import main
from cloud_ingest.store.pool import Connection

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(conn: Connection, database_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``cloud-ingest KIND ACTION ingest.toml …`` on a migrated database: exit code, output, errors."""
    file = tmp_path / "ingest.toml"
    file.write_text(f"roles = ['settle']\n[store]\ndsn = '''{database_dsn}'''\n")

    def run(kind: str, action: str, *names: str) -> tuple[int, str, str]:
        code = main([kind, action, str(file), *names])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_an_installation_starts_from_nothing(command: Command) -> None:
    assert command("tenant", "list") == (0, "", "")
    assert command("tenant", "add", "acme")[:2] == (0, "tenant acme: added\n")
    assert command("site", "add", "acme", "north")[:2] == (0, "site acme/north: added\n")
    assert command("agent", "add", "acme", "gw1")[:2] == (0, "agent acme/gw1: added\n")
    assert command("agent", "add", "acme", "gw1")[:2] == (0, "agent acme/gw1: added already\n")
    assert command("agent", "disable", "acme", "gw1")[:2] == (0, "agent acme/gw1: disabled\n")
    listed = json.loads(command("agent", "list")[1])
    assert (listed["tenant"], listed["name"], listed["state"]) == ("acme", "gw1", "unknown")
    assert listed["disabled_at"] is not None
    assert command("agent", "enable", "acme", "gw1")[:2] == (0, "agent acme/gw1: enabled\n")
    assert json.loads(command("tenant", "list")[1])["agents"] == 1


def test_what_is_not_there_is_named_with_what_is(command: Command) -> None:
    command("tenant", "add", "acme")
    code, _, errors = command("site", "add", "acne", "north")
    assert code == 1
    assert "there is no tenant 'acne'; allowed: acme; add it by: cloud-ingest tenant add" in errors
    assert command("site", "disable", "acme", "north")[0] == 1


def test_a_name_that_no_topic_can_carry_is_wrong_usage(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/b", "#", "", "x" * 65):
        with pytest.raises(SystemExit) as ended:
            command("tenant", "add", name)
        assert ended.value.code == 2
        assert "1 to 64 letters" in capsys.readouterr().err

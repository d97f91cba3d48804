from __future__ import annotations

import logging

import orjson
import pytest

from protocols import logs


def test_json_lines_carry_the_message_the_extra_fields_and_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    log = logging.getLogger("edge.poll")
    log.debug("not shown")
    log.info("polled %s", "mill", extra={"device": "mill", "took_ms": 12})
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    first, second = (orjson.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first | {"at": ""} == {
        "at": "",
        "level": "info",
        "logger": "edge.poll",
        "message": "polled mill",
        "device": "mill",
        "took_ms": 12,
    }
    assert (second["level"], second["message"]) == ("error", "failed")
    assert "ValueError: broken" in second["error"]


def test_text_lines_carry_level_logger_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "text")
    logging.getLogger("edge.poll").info("not shown")
    logging.getLogger("edge.poll").warning("late")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING edge.poll: late")


def test_configuring_twice_does_not_log_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logs.configure()
    logging.getLogger("x").info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1

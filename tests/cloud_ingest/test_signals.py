from __future__ import annotations

import logging

import pytest

from cloud_ingest.signals import Signals


def test_a_counter_sums_over_its_labels() -> None:
    signals = Signals()
    signals.count("parked", "a")
    signals.count("parked", "b", 2)
    assert (signals.value("parked"), signals.value("parked", "b"), signals.value("parked", "c")) == (3, 2, 0)


def test_a_counter_without_a_description_does_not_exist() -> None:
    with pytest.raises(KeyError, match="COUNTERS"):
        Signals().count("surprises")


def test_what_goes_aside_is_counted_and_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    signals = Signals()
    with caplog.at_level(logging.WARNING):
        signals.warn("dead_letters", "undecodable", "not JSON", 3, agent="acme/gw1")
    assert signals.value("dead_letters", "undecodable") == 3
    assert "undecodable" in caplog.text
    assert "not JSON agent=acme/gw1" in caplog.text


def test_the_snapshot_has_counters_and_gauges_with_their_meaning() -> None:
    signals = Signals()
    signals.count("gaps", "disk_full")
    signals.gauge("inbox_waiting", "Messages waiting.", lambda: 7)
    samples = {(sample.name, sample.label): sample for sample in signals.snapshot()}
    assert samples["gaps", "disk_full"].value == 1
    assert samples["gaps", "disk_full"].kind == "counter"
    assert samples["inbox_waiting", ""].value == 7
    assert all(sample.help for sample in samples.values())

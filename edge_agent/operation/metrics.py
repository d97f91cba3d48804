"""The agent's metrics in the text format of Prometheus (version 0.0.4).

A counter starts at 0 with the process. The share of time that a bus is busy is the rate of
``metercarbon_agent_bus_busy_seconds_total``; quantiles of the commit latency follow from the rates of its buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edge_agent.buffer.records import Stats
from edge_agent.operation.commits import Commits
from edge_agent.operation.histogram import BOUNDS_S, Histogram
from edge_agent.polling.crew import Crew
from edge_agent.signals import Signals
from protocols.timebase import US

_PREFIX = "metercarbon_agent_"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its values by label."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    values: tuple[tuple[Mapping[str, str], float], ...]
    suffixes: tuple[str, ...] = ()
    """Of a histogram: what follows its name in the line of each value."""


def exposition(families: Iterable[Family]) -> str:
    """Text of the metrics."""
    lines = []
    for family in families:
        name = _PREFIX + family.name + ("_total" if family.kind == "counter" else "")
        lines.append(f"# HELP {name} {_escaped(family.help)}")
        lines.append(f"# TYPE {name} {family.kind}")
        for index, (labels, value) in enumerate(family.values):
            line = name + family.suffixes[index] if family.suffixes else name
            inner = ",".join(f'{key}="{_quoted(text)}"' for key, text in labels.items())
            lines.append(f"{line}{{{inner}}} {value!r}" if inner else f"{line} {value!r}")
    return "\n".join(lines) + "\n"


def families(signals: Signals, crew: Crew, commits: Commits, stats: Stats | None, now_us: int) -> Iterator[Family]:
    """All metrics of an agent.

    Parameters
    ----------
    signals, crew, commits
        What is counted where.
    stats
        What the buffer holds; None if it did not answer in time.
    now_us
        Plant time [µs UTC].
    """
    turns = [(line, turn.name) for line in crew.lines for turn in line.turns]
    yield _labelled(
        "polls", "Polls made.", [({"connection": line.name, "device": name}, line.polls[name]) for line, name in turns]
    )
    yield _labelled(
        "polls_failed",
        "Polls after which a point of the device, or of the group of nodes, was bad.",
        [({"connection": line.name, "device": name}, line.failed[name]) for line, name in turns],
    )
    yield Family(
        "poll_lag_seconds",
        "gauge",
        "How late the last poll began, in plant time.",
        tuple(({"connection": line.name}, line.lag_s) for line in crew.lines),
    )
    yield Family(
        "points_bad",
        "gauge",
        "Points that are bad now.",
        tuple(({"device": device}, count) for device, count in crew.bad_points().items()),
    )
    yield _labelled(
        "bus_busy_seconds",
        "Time from requests to their answers or time-outs.",
        [({"connection": name}, busy_s) for name, busy_s in sorted(signals.bus_busy_s.items())],
    )
    yield _labelled(
        "request_failures",
        "Requests to devices without a usable answer.",
        [({"reason": reason}, count) for reason, count in sorted(signals.failures.items())],
    )
    yield _plain("overruns", signals.overruns, "Poll times that passed without a poll.")
    yield _plain("requests", signals.requests, "Requests made to devices.")
    yield _plain("uncertain_times", signals.uncertain_times, "Readings with an uncertain time of measurement.")
    yield _plain("bus_reconnects", signals.bus_reconnects, "Connections to devices made after the first.")
    yield _plain("published", signals.published, "Messages given to the broker.")
    yield _plain("redelivered", signals.redelivered, "Messages given to the broker again.")
    yield _histogram(
        "commit_latency_seconds",
        signals.commit_latency,
        "Time from the first publication of a message on a connection to the word that it is committed.",
    )
    yield _gauge("backlog_window", signals.backlog_window, "Messages of the backlog that may be under way.")
    yield _gauge("mqtt_version", signals.mqtt_version, "Spoken with the broker: 5, 3 for 3.1.1; 0: not connected.")
    yield _labelled(
        "refused",
        "Messages that the broker refused; they are sent again.",
        [({"reason": reason}, count) for reason, count in sorted(signals.refused.items())],
    )
    yield _plain("held_back", signals.oversize, "Messages larger than the broker takes; they stay in the buffer.")
    yield _plain("broker_reconnects", signals.reconnects, "Connections to the broker after the first.")
    yield _plain("outbox_stalls", signals.stalls, "Times that the buffer could not be written and was tried again.")
    yield _labelled(
        "dropped_readings",
        "Readings dropped from the buffer.",
        [({"reason": reason}, count) for reason, count in sorted(signals.dropped_readings.items())],
    )
    yield _plain("outbox_commits", commits.count, "Batches written to the disk.")
    yield _plain("outbox_commit_seconds", commits.total_s, "Time that batches took to the disk, summed up.")
    yield _gauge("outbox_commit_last_seconds", commits.last_s, "Time that the last batch took to the disk.")
    yield _gauge("outbox_waiting_seconds", commits.oldest_s(), "How long a batch has waited for the disk.")
    if stats is not None:
        yield _gauge(
            "oldest_pending_age_seconds",
            oldest_age_s(stats, now_us),
            "Age of the oldest reading that the store has not confirmed.",
        )
        yield _gauge("outbox_bytes", stats.bytes_used, "What counts against the buffer's limit.")
        yield _gauge("outbox_records_pending", stats.records_pending, "Messages that the store has not confirmed.")
        yield _gauge("outbox_readings_pending", stats.readings_pending, "Readings that the store has not confirmed.")


def oldest_age_s(stats: Stats, now_us: int) -> float:
    """Age of the oldest reading that the store has not confirmed [s]; 0 if there is none."""
    oldest_us = stats.oldest_pending_us
    return 0.0 if oldest_us is None else max(0, now_us - oldest_us) / US


def _histogram(name: str, found: Histogram, text: str) -> Family:
    counts = found.cumulative()
    bounds = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
    values = [({"le": bound}, count) for bound, count in zip(bounds, counts, strict=True)]
    suffixes = (*["_bucket"] * len(counts), "_sum", "_count")
    return Family(name, "histogram", text, (*values, ({}, found.total_s), ({}, counts[-1])), suffixes)


def _labelled(name: str, text: str, values: Iterable[tuple[Mapping[str, str], float]]) -> Family:
    return Family(name, "counter", text, tuple(values))


def _plain(name: str, value: float, text: str) -> Family:
    return Family(name, "counter", text, (({}, value),))


def _gauge(name: str, value: float, text: str) -> Family:
    return Family(name, "gauge", text, (({}, value),))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')

"""Nothing is lost and nothing counted twice, whatever is killed while batches are on their way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from deploy.local.processes import Child
from deploy.local.stack import Stack
from deploy.local.tally import readings_sent, tally
from tests.support.observer import Observer
from tests.support.plants import cement_plant
from tests.support.waiting import wait_until

SPEED = 600
ON_THEIR_WAY = 10
"""Messages that are sent and not committed at each kill."""


@contextmanager
def _held(child: Child) -> Iterator[None]:
    """A process that stands still, but keeps its connections."""
    os.kill(child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if child.running():
            os.kill(child.pid, signal.SIGCONT)


@pytest.mark.timeout(400)
def test_nothing_is_lost_or_doubled_when_ingest_broker_and_agent_are_killed(
    timescale_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    with (
        cement_plant(tmp_path / "plant", timescale_database_dsn, mosquitto, SPEED) as stack,
        Observer(mosquitto) as observer,
    ):

        def kill_ingest() -> None:
            stack.ingest.kill()
            stack.start_ingest()

        def kill_broker() -> None:
            mosquitto.child.kill()
            mosquitto.start()

        def kill_agent() -> None:
            stack.agent.kill()
            stack.start_agent()

        wait_until(lambda: observer.messages() > ON_THEIR_WAY, "the agent publishes")
        for kill in (kill_ingest, kill_broker, kill_agent, kill_broker, kill_ingest):
            _with_batches_on_their_way(stack, observer, kill)
        _finish(stack)
        counted = tally(timescale_database_dsn, readings_sent(stack.agent_report_file))
        assert counted.clean, f"{counted}\n{stack.ingest.log_tail()}"
        assert counted.stored > 0


def _with_batches_on_their_way(stack: Stack, observer: Observer, kill: Callable[[], None]) -> None:
    """Let messages pile up uncommitted, kill, and see that messages come again."""
    before = observer.messages()
    redelivered = observer.redelivered()
    with _held(stack.ingest):
        wait_until(lambda: observer.messages() >= before + ON_THEIR_WAY, "messages pile up")
        if kill.__name__ != "kill_ingest":
            kill()
    if kill.__name__ == "kill_ingest":
        kill()
    wait_until(lambda: observer.redelivered() > redelivered, f"redeliveries after {kill.__name__}", 120)


def _finish(stack: Stack) -> None:
    """Stop the agent in order: it drains its buffer first."""
    stack.require()
    stack.agent.stop(timeout_s=90)
    stack.wait_until_settled()

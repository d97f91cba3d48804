"""Nothing is lost and nothing counted twice, whatever is killed while batches are on their way."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from deploy.local.broker import Broker
from deploy.local.stack import Stack
from deploy.local.tally import readings_sent, tally
from tests.support.observer import Observer
from tests.support.plants import cement_plant
from tests.support.processes import held
from tests.support.waiting import wait_until

SPEED = 600
ON_THEIR_WAY = 10
"""Messages that are sent and not committed at each kill."""


@pytest.mark.timeout(400)
def test_nothing_is_lost_or_doubled_when_ingest_broker_and_agent_are_killed(
    timescale_database_dsn: str, mosquitto: Broker, tmp_path: Path
) -> None:
    with (
        cement_plant(tmp_path / "plant", timescale_database_dsn, mosquitto, SPEED) as stack,
        Observer(mosquitto) as observer,
    ):

        def by_the_agent() -> int:
            return observer.redelivered()

        def by_the_broker() -> int:
            return _redelivered_to_ingest(stack)

        wait_until(lambda: observer.messages() > ON_THEIR_WAY, "the agent publishes")
        for victim in ("ingest", "broker", "agent", "broker", "ingest"):
            # The broker sends again what a killed ingest had not acknowledged, from 0 in the new process; the
            # agent what a killed broker forgot, and what it does not know to be stored after its own end.
            again = by_the_broker if victim == "ingest" else by_the_agent
            before = 0 if victim == "ingest" else again()
            _kill_with_messages_on_their_way(stack, mosquitto, observer, victim)
            wait_until(partial(_more_than, before, again), f"redeliveries after {victim}", 120)
        stack.require()
        stack.agent.stop(timeout_s=90)
        stack.wait_until_settled()
        counted = tally(timescale_database_dsn, readings_sent(stack.agent_report_file))
        assert counted.clean, f"{counted}\n{stack.ingest.log_tail()}"
        assert counted.stored > 0


def _more_than(before: int, count: Callable[[], int]) -> bool:
    return count() > before


def _kill_with_messages_on_their_way(stack: Stack, broker: Broker, observer: Observer, victim: str) -> None:
    """Let messages pile up that nobody has committed, then kill with -9 and start again."""
    before = observer.messages()
    redelivered = observer.redelivered()
    with held(stack.ingest):
        wait_until(lambda: observer.messages() >= before + ON_THEIR_WAY, "messages pile up")
        match victim:
            case "ingest":
                stack.ingest.kill()
            case "broker":
                # With ingest, which would find in its socket what the broker had pushed: now nobody has it.
                broker.child.kill()
                stack.ingest.kill()
                broker.start()
            case "agent":
                stack.agent.kill()
                stack.start_agent()
                # While nobody answers it, the agent sends what it holds again.
                wait_until(lambda: observer.redelivered() > redelivered, "the agent's redeliveries", 120)
    if victim != "agent":
        stack.start_ingest()


def _redelivered_to_ingest(stack: Stack) -> int:
    metrics = httpx.get(f"{stack.api_url}/metrics", timeout=10).text
    found = re.search(r"^metercarbon\S*redelivered\S* (\d+)", metrics, re.MULTILINE)
    return int(found[1]) if found else 0

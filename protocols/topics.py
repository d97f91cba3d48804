"""MQTT topics. Tenant and agent are taken from the topic, which the broker's access rules guard.

======================================================== ========= ======== =====================================
Topic                                                    direction retained payload
======================================================== ========= ======== =====================================
``metercarbon/1/{tenant}/{agent}/data/{codec}``          up        no       a batch of readings
``metercarbon/1/{tenant}/{agent}/birth/{schema}``        up        yes      a schema of points
``metercarbon/1/{tenant}/{agent}/gap``                   up        no       what was dropped, and why
``metercarbon/1/{tenant}/{agent}/session``               up        yes      online or offline (last will)
``metercarbon/1/{tenant}/{agent}/status``                up        no       how the agent is, for people
``metercarbon/1/{tenant}/{agent}/committed``             down      no       what the store has
======================================================== ========= ======== =====================================

Ingest does not hear the status, and `parse` does not know it: it is for displays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from protocols.errors import TopicError

ROOT = "metercarbon/1"
Channel = Literal["data", "birth", "gap", "session", "committed"]

UPSTREAM_FILTERS = (f"{ROOT}/+/+/data/+", f"{ROOT}/+/+/birth/+", f"{ROOT}/+/+/gap", f"{ROOT}/+/+/session")
"""What ingest subscribes to."""

_NAME = re.compile(r"[\w\-.]{1,64}")
NAME_RULE = "1 to 64 letters, digits, '_', '-' or '.'"


def check_name(what: str, value: str) -> str:
    """Return `value` if it can be a tenant, agent, site, device or tag name.

    Raises
    ------
    TopicError
        Otherwise, naming `what`, the value and the rule.
    """
    if not _NAME.fullmatch(value):
        raise TopicError(f"{what} {value!r} is not allowed; allowed: {NAME_RULE}")
    return value


@dataclass(frozen=True, slots=True)
class Topic:
    """A parsed topic; `detail` is the codec of a batch, the schema id of a birth, else empty."""

    tenant: str
    agent: str
    channel: Channel
    detail: str = ""

    def __str__(self) -> str:
        base = f"{ROOT}/{self.tenant}/{self.agent}/{self.channel}"
        return f"{base}/{self.detail}" if self.detail else base


def data(tenant: str, agent: str, codec: str) -> str:
    """Topic of batches encoded with `codec`."""
    return str(Topic(tenant, agent, "data", codec))


def birth(tenant: str, agent: str, schema_id: str) -> str:
    """Topic of one schema."""
    return str(Topic(tenant, agent, "birth", schema_id))


def gap(tenant: str, agent: str) -> str:
    """Topic of gap records."""
    return str(Topic(tenant, agent, "gap"))


def session(tenant: str, agent: str) -> str:
    """Topic of the agent's state."""
    return str(Topic(tenant, agent, "session"))


def status(tenant: str, agent: str) -> str:
    """Topic of status messages."""
    return f"{ROOT}/{tenant}/{agent}/status"


def committed(tenant: str, agent: str) -> str:
    """Topic on which an agent hears what the store has."""
    return str(Topic(tenant, agent, "committed"))


def parse(topic: str) -> Topic:
    """Parse a topic.

    Raises
    ------
    TopicError
        If it is not one of the forms above.
    """
    parts = topic.split("/")
    if len(parts) not in (5, 6) or "/".join(parts[:2]) != ROOT:
        raise TopicError(f"topic {topic!r} is not {ROOT}/<tenant>/<agent>/<channel>")
    tenant, agent, channel = parts[2], parts[3], parts[4]
    check_name("tenant", tenant)
    check_name("agent", agent)
    detail = parts[5] if len(parts) == 6 else ""
    match channel:
        case "data" | "birth" if detail:
            return Topic(tenant, agent, channel, detail)
        case "gap" | "session" | "committed" if not detail:
            return Topic(tenant, agent, channel)
    raise TopicError(
        f"topic {topic!r} has no known channel; known: data/<codec>, birth/<schema>, gap, session, committed"
    )

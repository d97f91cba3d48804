"""From a message's bytes to what it says, or to the reason why it says nothing. No I/O.

Tenant and agent come from the topic, which the broker's access rules guard; a payload that claims others is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cloud_ingest.store.ledger import MAX_SEQ, Kind
from protocols import birth, gap, session, topics, wire
from protocols.birth import Birth
from protocols.errors import PayloadError, ProtocolError, SchemaError, TopicError, UnknownCodecError
from protocols.gap import Gap
from protocols.payload import registry
from protocols.reading import Batch, BatchKey, digest
from protocols.session import Session
from protocols.topics import Topic

_RETAINED = ("birth", "session")
_KINDS = {"data": Kind.DATA, "birth": Kind.BIRTH, "gap": Kind.GAP}


@dataclass(frozen=True, slots=True)
class Dead:
    """A message that can't be stored.

    Attributes
    ----------
    kind, reason
        For the dead letters; see `cloud_ingest.store.letters.Letter`.
    identity
        Kind, epoch and seq, if they could be read: then its sender is answered.
    """

    kind: str
    reason: str
    identity: tuple[Kind, str, int] | None = None


@dataclass(frozen=True, slots=True)
class Cleared:
    """A retained message was removed from the broker: nothing to store."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A message and what it says.

    Attributes
    ----------
    topic, payload, digest
        The message.
    address
        Its topic's parts, if it is one of ours.
    content
        What it says.
    """

    topic: str
    payload: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    address: Topic | None
    content: Batch | Birth | Gap | Session | Dead | Cleared

    def identity(self) -> tuple[Kind, str, int] | None:
        """Kind, epoch and seq of a message that went through an agent's buffer."""
        match self.content:
            case Batch(key=key):
                return Kind.DATA, key.epoch, key.seq
            case Birth(key=key):
                return Kind.BIRTH, key.epoch, key.seq
            case Gap(key=key):
                return Kind.GAP, key.epoch, key.seq
            case Dead(identity=identity):
                return identity
        return None

    def killed(self, kind: str, reason: str) -> Parsed:
        """The same message as a dead one."""
        return Parsed(self.topic, self.payload, self.digest, self.address, Dead(kind, reason, self.identity()))


def parse(topic: str, payload: bytes) -> Parsed:
    """Find out what a message says; never raises for what stands in it."""
    fingerprint = digest(payload)
    try:
        address = topics.parse(topic)
    except TopicError as error:
        return Parsed(topic, payload, fingerprint, None, Dead("topic", str(error)))
    if not payload and address.channel in _RETAINED:
        return Parsed(topic, payload, fingerprint, address, Cleared())
    try:
        content = _content(address, payload)
    except (ProtocolError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        reason = str(error) if isinstance(error, ProtocolError) else f"{type(error).__name__}: {error}"
        content = Dead("undecodable", reason, _identity(address, payload))
    return Parsed(topic, payload, fingerprint, address, content)


def _content(address: Topic, payload: bytes) -> Batch | Birth | Gap | Session | Dead:
    match address.channel:
        case "data":
            batch = registry.codec(address.detail).decode(payload)
            return _objection(address, batch.key, Kind.DATA) or batch
        case "birth":
            born = birth.decode(payload)
            objection = _objection(address, born.key, Kind.BIRTH)
            if objection is None and address.detail != born.schema.id():
                reason = f"the topic names schema {address.detail}; the payload's own is {born.schema.id()}"
                return Dead("identity", reason, (Kind.BIRTH, born.key.epoch, born.key.seq))
            return objection or born
        case "gap":
            lost = gap.decode(payload)
            return _objection(address, lost.key, Kind.GAP) or lost
        case "session":
            record = session.decode(payload)
            if (record.tenant, record.agent) != (address.tenant, address.agent):
                return Dead("identity", f"the payload claims {record.tenant}/{record.agent}")
            return record
        case "committed":
            return Dead("topic", "committed messages go to agents, not to ingest")


def _objection(address: Topic, key: BatchKey, kind: Kind) -> Dead | None:
    """What is wrong with a key, if anything."""
    if key.seq > MAX_SEQ:
        return Dead("invalid", f"seq {key.seq}; allowed: up to {MAX_SEQ}")
    if (key.tenant, key.agent) != (address.tenant, address.agent):
        return Dead("identity", f"the payload claims {key.tenant}/{key.agent}", (kind, key.epoch, key.seq))
    return None


def _identity(address: Topic, payload: bytes) -> tuple[Kind, str, int] | None:
    """Identity of a message that is invalid otherwise."""
    kind = _KINDS.get(address.channel)
    if kind is None:
        return None
    try:
        if kind is Kind.DATA:
            found = registry.codec(address.detail).identity(payload)
        else:
            key = wire.key(wire.loads(payload, address.channel), address.channel)
            found = key.epoch, key.seq
    except (PayloadError, SchemaError, UnknownCodecError, RecursionError):
        return None
    return None if found is None or found[1] > MAX_SEQ else (kind, *found)

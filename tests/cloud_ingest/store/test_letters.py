from __future__ import annotations

from cloud_ingest.store import letters
from cloud_ingest.store.letters import Letter
from cloud_ingest.store.pool import Connection


def letter(topic: str = "t", digest: bytes = b"d", reason: str = "why") -> Letter:
    return Letter("acme", "gw1", topic, "undecodable", reason, digest, b"\0\xff")


def test_the_same_message_is_kept_once_and_counted(conn: Connection) -> None:
    letters.add(conn, [letter(), letter(), letter("other")])
    letters.add(conn, [letter()])
    assert [(stored.topic, stored.times) for stored in letters.newest(conn, 10)] == [("t", 3), ("other", 1)]


def test_bytes_come_back_as_they_were(conn: Connection) -> None:
    letters.add(conn, [letter()])
    (stored,) = letters.newest(conn, 10)
    found = letters.find(conn, stored.id)
    assert found == (stored, b"\0\xff")
    assert letters.find(conn, stored.id + 1) is None
    assert letters.newest(conn, 10, below=stored.id) == []


def test_no_topic_and_no_reason_is_too_odd_to_keep(conn: Connection) -> None:
    letters.add(conn, [letter("a\0\ud800" + "界" * 65_000, reason="NUL \0 and \udfff" + "x" * 10_000)])
    assert len(letters.newest(conn, 10)) == 1

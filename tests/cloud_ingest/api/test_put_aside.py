"""What the API tells of dead letters and quarantine."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from cloud_ingest.api import models
from cloud_ingest.api.config import ApiConfig
from cloud_ingest.ingest.write import Flush
from cloud_ingest.signals import Signals
from cloud_ingest.store import pool
from cloud_ingest.store.migrate import migrate
from tests.support.fake_agent import FakeAgent, Sent


@pytest.fixture
def client(plain_database_dsn: str, client_of: Callable[..., httpx.Client]) -> httpx.Client:
    """The API over a database with letters and quarantined readings of two tenants."""
    agent, rival = FakeAgent(), FakeAgent("rival", "gw9")
    with pool.connect(plain_database_dsn, "test", autocommit=True) as conn:
        migrate(conn)
        flush = Flush(conn, 7, 600.0, Signals())
        for n in range(5):
            flush.store([Sent(agent.topic(), b"\xff%d" % n).parsed()])
        for each in (agent, rival):
            sent = (each.birth(), each.floats(1.5, None, first_s=-1.6e9), Sent(each.topic(), b"{}"))
            flush.store([message.parsed() for message in sent])
    return client_of(ApiConfig(tenant="acme"), plain_database_dsn)


def _get(client: httpx.Client, path: str, **query: Any) -> Any:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_dead_letters_come_in_pages_of_one_tenant(client: httpx.Client) -> None:
    page = _get(client, "/v1/dead-letters", limit=4)
    models.DeadLetters.model_validate(page)
    rest = _get(client, "/v1/dead-letters", limit=4, cursor=page["next"])
    assert rest["next"] is None
    idents = [letter["id"] for letter in [*page["dead_letters"], *rest["dead_letters"]]]
    assert len(idents) == 6
    assert idents == sorted(idents, reverse=True)
    assert len(_get(client, "/v1/dead-letters", tenant="rival")["dead_letters"]) == 1
    assert _get(client, "/v1/dead-letters", agent="gw9")["dead_letters"] == []
    assert _get(client, "/v1/dead-letters", kind="conflict")["dead_letters"] == []
    assert len(_get(client, "/v1/dead-letters", reason="BATCH")["dead_letters"]) == 6


def test_a_letter_comes_with_its_bytes_to_its_own_tenant_only(client: httpx.Client) -> None:
    ident = _get(client, "/v1/dead-letters", limit=1000)["dead_letters"][-1]["id"]
    letter = _get(client, f"/v1/dead-letters/{ident}")
    models.DeadLetter.model_validate(letter)
    assert base64.b64decode(letter["payload"]) == b"\xff0"
    assert client.get(f"/v1/dead-letters/{ident}", params={"tenant": "rival"}).status_code == 404


def test_quarantined_readings_come_in_pages_of_one_tenant(client: httpx.Client) -> None:
    page = _get(client, "/v1/quarantine", limit=1)
    models.Quarantine.model_validate(page)
    rest = _get(client, "/v1/quarantine", limit=1, cursor=page["next"])
    assert rest["next"] is None
    (last,), (first,) = page["readings"], rest["readings"]
    assert (first["value"], first["quality"], first["agent"]) == ("1.5", "good", "gw1")
    assert (last["value"], last["quality"], last["state"]) == (None, "bad_timeout", "held")
    assert last["at_us"] - first["at_us"] == 1_000_000
    assert _get(client, "/v1/quarantine", state="released")["readings"] == []
    assert len(_get(client, "/v1/quarantine", tenant="rival", point=first["point"])["readings"]) == 2

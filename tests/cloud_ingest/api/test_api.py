"""What the API answers, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from cloud_ingest.api import models, state
from cloud_ingest.api.config import ApiConfig
from cloud_ingest.api.runtime import ListenError, Server
from cloud_ingest.signals import Signals
from tests.support.small_plant import POINTS, SITE, TENANT

MIDNIGHT = "2022-06-14T00:00:00+08:00"
NEXT_MIDNIGHT = "2022-06-15T00:00:00+08:00"
MILL = f"{SITE}/mill/energy"


def _get(client: httpx.Client, path: str, **query: Any) -> Any:
    answer = client.get(path, params={name.rstrip("_"): value for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


def _problem(client: httpx.Client, path: str, status: int, **query: Any) -> dict[str, Any]:
    answer = client.get(path, params={name.rstrip("_"): value for name, value in query.items()})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    models.Problem.model_validate(document)
    assert document["status"] == status
    return dict(document)


def _pages(client: httpx.Client, path: str, **query: Any) -> list[Any]:
    found = [_get(client, path, **query)]
    while found[-1]["next"] is not None:
        assert len(found) < 1000
        found.append(_get(client, path, **query, cursor=found[-1]["next"]))
    return found


def test_points_are_listed_with_what_the_agent_announced(client: httpx.Client) -> None:
    answer = _get(client, "/v1/points")
    models.Points.model_validate(answer)
    assert [point["name"] for point in answer["points"]] == sorted(f"{SITE}/{p.device}/{p.tag}" for p in POINTS)
    mill = next(point for point in answer["points"] if point["name"] == MILL)
    assert (mill["unit"], mill["kind"], mill["definition"]["gap_limit_s"]) == ("kWh", "counter", 300.0)


@pytest.mark.parametrize(
    ("filters", "count"),
    [({"device": "dryer"}, 2), ({"medium": "water"}, 1), ({"kind": "gauge", "device": "mill"}, 1), ({"site": "x"}, 0)],
)
def test_all_filters_of_points_must_fit(client: httpx.Client, filters: dict[str, str], count: int) -> None:
    assert len(_get(client, "/v1/points", **filters)["points"]) == count


def test_pages_of_points_hold_each_point_once(client: httpx.Client) -> None:
    pages = _pages(client, "/v1/points", limit=3)
    names = [point["name"] for page in pages for point in page["points"]]
    assert [len(page["points"]) for page in pages] == [3, 3, 2]
    assert names == [point["name"] for point in _get(client, "/v1/points")["points"]]


def test_readings_come_as_columns_with_quality_and_batch(client: httpx.Client) -> None:
    points = [MILL, f"{SITE}/mill/power"]
    answer = _get(client, "/v1/readings", point=points, from_=MIDNIGHT, to="2022-06-13T16:10:00Z")
    models.Readings.model_validate(answer)
    columns = answer["columns"]
    assert answer["points"][1] == {"name": points[1], "unit": "kW", "value_type": "float"}
    assert columns["point"] == [0] * 10 + [1] * 10
    assert columns["at"][:2] == ["2022-06-13T16:00:00.000000+00:00", "2022-06-13T16:01:00.000000+00:00"]
    assert columns["value"][:2] == [1000.0, 1001.0]
    assert set(columns["quality"][:10]) == {"good"}
    assert set(columns["quality"][10:]) == {"uncertain"}
    assert len(set(columns["batch"])) == 2
    assert answer["next"] is None


def test_a_bad_reading_has_no_value(client: httpx.Client) -> None:
    answer = _get(
        client,
        "/v1/readings",
        point=f"{SITE}/pumps/volume",
        from_="2022-06-15T03:00:00+08:00",
        to="2022-06-15T04:00:00+08:00",
    )
    assert answer["columns"]["value"] == [None]
    assert answer["columns"]["quality"] == ["bad_timeout"]


@pytest.mark.parametrize("limit", [1, 7, 1999])
def test_pages_of_readings_lose_and_double_nothing(client: httpx.Client, limit: int) -> None:
    query = {"point": [f"{SITE}/fans/energy", MILL], "from_": MIDNIGHT, "to": "2022-06-14T01:00:00+08:00"}
    if limit == 1999:
        query["to"] = "2022-06-16T00:00:00+08:00"
    pages = _pages(client, "/v1/readings", **query, limit=limit)
    rows = [row for page in pages for row in zip(page["columns"]["point"], page["columns"]["at"], strict=True)]
    assert all(len(page["columns"]["at"]) <= limit for page in pages)
    assert rows == sorted(set(rows))
    assert len(rows) == (120 if limit < 100 else 2 * (26 * 60 + 1))


def test_accounts_carry_everything_an_auditor_asks_for(client: httpx.Client) -> None:
    answer = _get(
        client,
        "/v1/accounts",
        site=SITE,
        process="grinding",
        carrier="electricity",
        period="hour",
        from_=MIDNIGHT,
        limit=1,
    )
    models.Accounts.model_validate(answer)
    (account,) = answer["accounts"]
    assert (account["start"], account["end"]) == (MIDNIGHT, "2022-06-14T01:00:00+08:00")
    assert account["status"] == "final"
    assert account["use"] == {
        "value": pytest.approx(180.0),
        "unit": "kWh",
        "coverage": 1.0,
        "estimated_share": 0.0,
    }
    assert account["output"]["product"] == "meal"
    quality = {"coverage": 1.0, "estimated_share": 0.0}
    assert account["unit_use"] == {"value": pytest.approx(3.0), "unit": "kWh/t", **quality}
    assert account["co2"]["value"] == pytest.approx(180 * 0.7252)
    assert account["co2"]["per_output"] == {"value": pytest.approx(3 * 0.7252), "unit": "kg/t", **quality}
    factor = account["co2"]["factor"]
    assert (factor["value"], factor["year"], factor["provisional"]) == (0.7252, 2022, False)
    assert factor["version"]
    assert factor["status"]
    assert [(i["point"], i["role"], i["share"]) for i in account["inputs"]] == [
        (MILL, "use", 1.0),
        (f"{SITE}/fans/energy", "use", 1.0),
        (f"{SITE}/dryer/energy", "use", 1.0),
        (f"{SITE}/scale/mass", "output", 1.0),
    ]
    assert sum(i["value"] for i in account["inputs"] if i["role"] == "use") == pytest.approx(account["use"]["value"])
    assert len(account["plant_model"]) == 64
    assert datetime.fromisoformat(account["computed_at"]).tzinfo is not None


def test_earlier_revisions_are_there_when_asked_for(client: httpx.Client) -> None:
    query = {"process": "grinding", "carrier": "electricity", "period": "hour", "from_": "2022-06-14T10:00:00+08:00"}
    query["to"] = "2022-06-14T11:00:00+08:00"
    current = _get(client, "/v1/accounts", **query)["accounts"]
    every = _get(client, "/v1/accounts", **query, revisions="all")["accounts"]
    assert [(a["revision"], a["current"]) for a in current] == [(2, True)]
    assert [(a["revision"], a["current"]) for a in every] == [(1, False), (2, True)]


@pytest.mark.parametrize("filters", [{}, {"period": "day"}, {"carrier": "water"}, {"revisions": "all"}])
def test_pages_of_accounts_hold_each_account_once(client: httpx.Client, filters: dict[str, str]) -> None:
    whole = _get(client, "/v1/accounts", **filters)
    pages = _pages(client, "/v1/accounts", **filters, limit=5)
    assert whole["next"] is None
    assert [account for page in pages for account in page["accounts"]] == whole["accounts"]
    assert len(whole["accounts"]) > 2


def test_days_start_at_the_sites_midnight_and_bound_by_from_and_to(client: httpx.Client) -> None:
    answer = _get(client, "/v1/accounts", period="day", process="drying", from_=MIDNIGHT, to=NEXT_MIDNIGHT)
    assert {(a["carrier"], a["start"]) for a in answer["accounts"]} == {
        ("electricity", MIDNIGHT),
        ("bituminous coal", MIDNIGHT),
    }


def test_agents_and_status_tell_how_things_stand(client: httpx.Client) -> None:
    agents = _get(client, "/v1/agents")
    models.Agents.model_validate(agents)
    assert [agent["name"] for agent in agents["agents"]] == ["gw1"]
    status = _get(client, "/v1/status", totals="true")
    models.Status.model_validate(status)
    assert status["feed"]["lag_rows"] == 0
    assert (status["parked"], status["dead_letters"], status["edition"]) == (0, 0, "plain")
    assert status["ledger"]["readings"] == 7 * (27 * 60 + 1) + 1 + 11
    assert _get(client, "/v1/status")["ledger"] is None


def test_the_index_points_to_the_documentation(client: httpx.Client) -> None:
    answer = _get(client, "/")
    models.Index.model_validate(answer)
    assert answer["docs"] == "/docs"
    assert answer["routes"] == [
        "/v1/accounts",
        "/v1/agents",
        "/v1/dead-letters",
        "/v1/dead-letters/{id}",
        "/v1/points",
        "/v1/quarantine",
        "/v1/readings",
        "/v1/status",
    ]
    assert client.get("/docs").status_code == 200


def test_every_route_and_parameter_is_described(client: httpx.Client) -> None:
    document = _get(client, "/openapi.json")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
            assert {"200", "404", "422", "503"} <= set(operation["responses"]), path
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), (path, parameter["name"])


def test_health_needs_no_database_and_readiness_does(client_of: Callable[..., httpx.Client]) -> None:
    deaf = client_of(ApiConfig(), dsn="postgresql://127.0.0.1:1/none")
    assert deaf.get("/healthz").json() == {"status": "ok"}
    assert _problem(deaf, "/readyz", 503)["type"].endswith(":unavailable")
    starting = client_of(ApiConfig(), waiting=("settle compiles its kernels",))
    assert "settle compiles its kernels" in _problem(starting, "/readyz", 503)["detail"]
    assert client_of(ApiConfig()).get("/readyz").json() == {"status": "ok"}


def test_metrics_are_in_the_text_format(client_of: Callable[..., httpx.Client]) -> None:
    signals = Signals()
    signals.count("dead_letters", 'un"known\\', 3)
    signals.count("readings_stored", n=10_000_000)
    signals.gauge("lag", "A figure.", lambda: 1.5)
    answer = client_of(ApiConfig(), signals=signals).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'metercarbon_dead_letters_total{label="un\\"known\\\\"} 3' in lines
    assert "metercarbon_readings_stored_total 10000000" in lines
    assert "metercarbon_lag 1.5" in lines
    assert "# TYPE metercarbon_lag gauge" in lines


_RANGE = {"from_": MIDNIGHT, "to": NEXT_MIDNIGHT}


@pytest.mark.parametrize(
    ("path", "query", "status", "parameter", "words"),
    [
        (
            "/v1/readings",
            {"point": MILL, "from_": "2022-06-14T00:00:00", "to": NEXT_MIDNIGHT},
            422,
            "from",
            "no offset",
        ),
        ("/v1/readings", {"point": MILL, "from_": "2022-06-14T00:00:00 08:00", "to": MIDNIGHT}, 422, "from", "%2B"),
        ("/v1/readings", {"point": MILL, "from_": "yesterday", "to": MIDNIGHT}, 422, "from", "ISO 8601"),
        ("/v1/readings", {"point": MILL, "from_": "0001-01-01T00:00:00Z", "to": MIDNIGHT}, 422, "from", "2000"),
        ("/v1/readings", {"point": MILL, "to": MIDNIGHT}, 422, "from", "required"),
        ("/v1/readings", {"point": MILL, "from_": NEXT_MIDNIGHT, "to": MIDNIGHT}, 422, "to", "later than `from`"),
        ("/v1/readings", {**_RANGE}, 422, "point", "1 to 100"),
        ("/v1/readings", {**_RANGE, "point": ["x"] * 2 + [f"p{n}" for n in range(100)]}, 422, "point", "1 to 100"),
        ("/v1/readings", {**_RANGE, "point": [MILL, "works/no/such"]}, 404, "point", "/v1/points"),
        ("/v1/readings", {**_RANGE, "point": MILL, "limit": 2001}, 422, "limit", "1 to 2000"),
        ("/v1/readings", {**_RANGE, "point": MILL, "limit": 0}, 422, "limit", "greater than or equal to 1"),
        ("/v1/readings", {**_RANGE, "point": MILL, "cursor": "abc"}, 422, "cursor", "earlier page"),
        ("/v1/accounts", {"period": "week"}, 422, "period", "'hour' or 'day'"),
        ("/v1/accounts", {"from_": NEXT_MIDNIGHT, "to": NEXT_MIDNIGHT}, 422, "to", "later than"),
        ("/v1/accounts", {"proces": "kiln"}, 422, "proces", "no such parameter"),
        ("/v1/accounts", {"tenant": "nobody"}, 404, "tenant", "first agent"),
        ("/v1/accounts", {"tenant": "a/b"}, 422, "tenant", "letters"),
        ("/v1/points", {"cursor": "WyJhY2NvdW50cyIsMV0"}, 422, "cursor", "earlier page"),
        ("/v1/points", {"site": "a\0b"}, 422, "site", "NUL"),
        ("/v1/status", {"totals": "perhaps"}, 422, "totals", "boolean"),
        ("/v1/dead-letters", {"kind": "odd"}, 422, "kind", "undecodable"),
        ("/v1/dead-letters", {"cursor": "WyJhY2NvdW50cyIsMV0"}, 422, "cursor", "earlier page"),
        ("/v1/dead-letters/999", {}, 404, "id", "/v1/dead-letters lists"),
        ("/v1/dead-letters/0", {}, 422, "id", "greater than or equal to 1"),
        ("/v1/quarantine", {"state": "lost"}, 422, "state", "released"),
    ],
)
def test_what_is_wrong_is_named_with_value_and_what_is_allowed(
    client: httpx.Client, path: str, query: dict[str, Any], status: int, parameter: str, words: str
) -> None:
    document = _problem(client, path, status, **query)
    assert document["parameter"] == parameter
    assert words in document["detail"]
    assert words in document["allowed"]
    assert "value" in document


def test_unknown_paths_and_methods_are_problems_too(client: httpx.Client) -> None:
    assert _problem(client, "/v1/nothing", 404)["type"].endswith(":no-route")
    answer = client.post("/v1/points")
    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_query_that_takes_too_long_is_cut_off_and_says_what_to_do(
    client_of: Callable[..., httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(state.SQL, "agents", "SELECT pg_sleep(30), %(tenant_id)s")
    slow = client_of(ApiConfig(tenant=TENANT, statement_timeout_s=0.05))
    document = _problem(slow, "/v1/agents", 503)
    assert document["type"].endswith(":too-slow")
    assert "shorter range" in document["detail"]


def test_a_failure_of_ours_is_a_problem_without_a_trace(
    client_of: Callable[..., httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(state.SQL, "agents", "SELECT no_such_column")
    document = _problem(client_of(ApiConfig(tenant=TENANT)), "/v1/agents", 500)
    assert "no_such_column" not in str(document)


def test_the_server_listens_answers_and_stops(plant_dsn: str) -> None:
    server = Server(ApiConfig(port=0, tenant=TENANT), plant_dsn, Signals())
    server.start()
    try:
        base = f"http://127.0.0.1:{server.port}"
        assert httpx.get(f"{base}/readyz", timeout=30).json() == {"status": "ok"}
        with pytest.raises(ListenError, match="can't listen there"):
            Server(ApiConfig(port=server.port), plant_dsn, Signals()).start()
    finally:
        server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/healthz", timeout=5)

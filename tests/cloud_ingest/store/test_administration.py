from __future__ import annotations

import pytest

from cloud_ingest.errors import UnknownNameError
from cloud_ingest.store import administration, registry
from cloud_ingest.store.pool import Connection
from protocols.birth import Schema
from tests.support.fake_agent import point


def names(conn: Connection, kind: administration.Kind) -> list[str]:
    return [item["name"] for item in administration.listing(conn, kind)]


def test_an_installation_starts_from_nothing(conn: Connection) -> None:
    assert administration.add(conn, "tenant", "acme", "acme")
    assert administration.add(conn, "site", "acme", "north")
    assert administration.add(conn, "agent", "acme", "gw1")
    (tenant,) = administration.listing(conn, "tenant")
    assert tenant == {"name": "acme", "disabled_at": None, "sites": 1, "agents": 1, "points": 0}
    (agent,) = administration.listing(conn, "agent")
    assert (agent["tenant"], agent["name"], agent["state"]) == ("acme", "gw1", "unknown")
    assert names(conn, "site") == ["north"]


def test_adding_again_changes_nothing(conn: Connection) -> None:
    administration.add(conn, "tenant", "acme", "acme")
    version = registry.version(conn)
    assert not administration.add(conn, "tenant", "acme", "acme")
    assert registry.version(conn) == version
    assert names(conn, "tenant") == ["acme"]


def test_each_change_raises_the_version_and_a_repetition_does_not(conn: Connection) -> None:
    names: dict[administration.Kind, str] = {"tenant": "acme", "site": "north", "agent": "gw1"}
    for kind, name in names.items():
        administration.add(conn, kind, "acme", name)
        versions = [registry.version(conn)]
        for disabled in (True, True, False, False):
            changed = administration.set_disabled(conn, kind, "acme", name, disabled=disabled)
            versions.append(registry.version(conn))
            assert (versions[-1] > versions[-2]) is changed
        assert versions[0] < versions[1] == versions[2] < versions[3] == versions[4]
        assert administration.listing(conn, kind)[0]["disabled_at"] is None


def test_a_repeated_disable_keeps_the_time_of_the_first(conn: Connection) -> None:
    administration.add(conn, "tenant", "acme", "acme")
    times = set()
    for _ in range(2):
        administration.set_disabled(conn, "tenant", "acme", "acme", disabled=True)
        times.add(administration.listing(conn, "tenant")[0]["disabled_at"])
    assert len(times) == 1
    assert None not in times


def test_an_unknown_name_is_refused_with_those_that_are_known(conn: Connection) -> None:
    with pytest.raises(UnknownNameError, match=r"no tenant 'acme'; allowed: none yet; add it by: .* tenant add"):
        administration.add(conn, "agent", "acme", "gw1")
    for tenant in ("acme", "emca"):
        administration.add(conn, "tenant", tenant, tenant)
        administration.add(conn, "agent", tenant, f"{tenant}-gw")
    with pytest.raises(
        UnknownNameError, match=r"no agent 'gw' of tenant 'acme'; allowed: acme-gw; add it by: .* agent"
    ):
        administration.set_disabled(conn, "agent", "acme", "gw", disabled=True)


def test_sites_that_births_announce_are_listed_with_their_points(conn: Connection) -> None:
    owner = registry.agent(conn, "acme", "gw1")
    registry.register_schema(conn, owner, Schema(site="plant", points=(point("a"), point("b"))), 1)
    assert administration.listing(conn, "site") == [
        {"tenant": "acme", "name": "plant", "disabled_at": None, "points": 2}
    ]

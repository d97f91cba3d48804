"""Security of the OPC-UA driver against a real asyncua server."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from cryptography import x509

from edge_agent.config import OpcUaSecurity
from edge_agent.drivers.opcua_security import fingerprint, own_certificate
from edge_agent.errors import CertificateError
from protocols.config import ConfigError
from protocols.quality import Quality
from tests.support import edge
from tests.support.plc import Plc, bench

NOW = datetime.now(UTC)
FEED = edge.node("feed", "ns=2;s=feed")
POLICIES = OpcUaSecurity.model_json_schema()["properties"]["policy"]["enum"]
ALL = [kind for kind in ua.SecurityPolicyType if kind.name.partition("_")[0] in POLICIES]


class Users:
    """Who may come in; remembers who came."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, bool]] = []

    def get_user(
        self, _iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> User | None:
        self.seen.append((username, certificate is not None))
        allowed = username is None or (username, password) == ("agent", "secret")
        return User(role=UserRole.User) if allowed else None


@dataclass(frozen=True)
class Identity:
    """A certificate with its key."""

    certificate_file: Path
    key_file: Path

    @property
    def fit(self) -> str:
        """How a configuration names it."""
        return f'server_fingerprint = "{self.fingerprint}"'

    @property
    def fingerprint(self) -> str:
        return fingerprint(x509.load_der_x509_certificate(self.certificate))

    certificate: bytes


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    """Certificates of the server, of another server, and of a user."""
    made = [own_certificate(tmp_path_factory.mktemp("identity"), NOW)[:2] for _ in range(3)]
    return [Identity(certificate, key, certificate.read_bytes()) for certificate, key in made]


def secured(identity: Identity, users: Users | None = None) -> Callable[[Server], Awaitable[None]]:
    async def prepare(server: Server) -> None:
        await server.load_certificate(identity.certificate_file)
        await server.load_private_key(identity.key_file)
        server.set_security_policy(ALL)
        server.set_identity_tokens([ua.AnonymousIdentityToken, ua.UserNameIdentityToken, ua.X509IdentityToken])
        if users is not None:
            server.iserver.user_manager = cast("UserManager", users)

    return prepare


def security(tmp_path: Path, server: str, policy: str = "Basic256Sha256", mode: str = "SignAndEncrypt") -> str:
    return f'security = {{ policy = "{policy}", mode = "{mode}", directory = "{tmp_path / "own"}", {server} }}\n'


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
async def test_every_policy_and_mode_works_with_a_certificate_made_here(
    unused_tcp_port: int, tmp_path: Path, identities: list[Identity], kind: ua.SecurityPolicyType
) -> None:
    policy, _, mode = kind.name.partition("_")
    fit = identities[0].fit
    extra = security(tmp_path, fit, policy, mode)
    async with Plc(unused_tcp_port, secured(identities[0])) as plc, bench(plc.endpoint, FEED, extra=extra) as found:
        assert (await found.poll())["feed"].value == 1.5
        assert found.driver._client is not None
        assert found.driver._client.security_policy.Mode == ua.MessageSecurityMode[mode]
        assert found.driver._client.security_policy.URI.replace("_", "").endswith(f"#{policy}")


async def test_a_server_known_by_its_certificate_file_is_read_by_subscription(
    unused_tcp_port: int, tmp_path: Path, identities: list[Identity]
) -> None:
    fit = f'server_certificate_file = "{identities[0].certificate_file}"'
    extra = security(tmp_path, fit) + 'mode = "subscribe"\n'
    async with Plc(unused_tcp_port, secured(identities[0])) as plc, bench(plc.endpoint, FEED, extra=extra) as found:
        await found.care(lambda seen: any(reading.value == 1.5 for reading in seen), 1)


async def test_a_server_with_another_certificate_is_refused_and_its_fingerprint_told(
    unused_tcp_port: int, tmp_path: Path, identities: list[Identity], caplog: pytest.LogCaptureFixture
) -> None:
    expected, other = identities[1].fingerprint, identities[0].fingerprint
    extra = security(tmp_path, f'server_fingerprint = "{expected}"')
    users = Users()
    plc = Plc(unused_tcp_port, secured(identities[0], users))
    async with plc, bench(plc.endpoint, FEED, extra=extra) as found:
        assert (await found.poll())["feed"].quality == Quality.BAD_NO_COMMUNICATION
        assert f"fingerprint {other}; allowed: {expected}" in caplog.text
        assert users.seen == []


async def test_a_server_without_the_wanted_security_is_refused(
    unused_tcp_port: int, tmp_path: Path, identities: list[Identity], caplog: pytest.LogCaptureFixture
) -> None:
    extra = security(tmp_path, f'server_fingerprint = "{"0" * 64}"')

    async def plain(server: Server) -> None:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])

    async with Plc(unused_tcp_port, plain) as plc, bench(plc.endpoint, FEED, extra=extra) as found:
        assert (await found.poll())["feed"].quality == Quality.BAD_NO_COMMUNICATION
        assert "does not offer Basic256Sha256/SignAndEncrypt" in caplog.text


@pytest.mark.parametrize(("password", "quality"), [("secret\n", Quality.GOOD), ("wrong", Quality.BAD_NO_COMMUNICATION)])
async def test_a_user_comes_in_with_the_right_password_only(
    unused_tcp_port: int, tmp_path: Path, identities: list[Identity], password: str, quality: Quality
) -> None:
    await asyncio.to_thread((tmp_path / "password").write_text, password)
    extra = security(tmp_path, identities[0].fit)
    extra += f'username = "agent"\npassword_file = "{tmp_path / "password"}"\n'
    users = Users()
    plc = Plc(unused_tcp_port, secured(identities[0], users))
    async with plc, bench(plc.endpoint, FEED, extra=extra) as found:
        assert (await found.poll())["feed"].quality == quality
        assert users.seen[0] == ("agent", users.seen[0][1])


async def test_a_user_comes_in_by_certificate(unused_tcp_port: int, tmp_path: Path, identities: list[Identity]) -> None:
    user = identities[2]
    extra = security(tmp_path, identities[0].fit)
    extra += f'user_certificate_file = "{user.certificate_file}"\nuser_key_file = "{user.key_file}"\n'
    users = Users()
    plc = Plc(unused_tcp_port, secured(identities[0], users))
    async with plc, bench(plc.endpoint, FEED, extra=extra) as found:
        assert (await found.poll())["feed"].value == 1.5
        assert users.seen == [(None, True)]


async def test_a_certificate_that_is_due_is_renewed_without_a_gap(
    unused_tcp_port: int, tmp_path: Path, identities: list[Identity]
) -> None:
    extra = security(tmp_path, identities[0].fit)
    plc = Plc(unused_tcp_port, secured(identities[0]))
    async with plc, bench(plc.endpoint, FEED, extra=extra) as found:
        await found.poll()
        first = found.driver._client
        found.driver._renew_at_s = 0.0
        seen = await found.poll()
        assert found.driver._client is not first
        assert all(reading.quality == Quality.GOOD for reading in seen.values())
        assert found.driver._renew_at_s > NOW.timestamp()


def test_the_agents_certificate_is_made_once_and_renewed_before_it_ends(tmp_path: Path) -> None:
    certificate_file, key_file, renew_at = own_certificate(tmp_path, NOW)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    first, key = certificate_file.read_bytes(), key_file.read_bytes()
    assert renew_at > NOW + timedelta(days=300)
    assert own_certificate(tmp_path, renew_at - timedelta(days=1)) == (certificate_file, key_file, renew_at)
    assert certificate_file.read_bytes() == first
    assert own_certificate(tmp_path, renew_at)[2] >= renew_at
    assert certificate_file.read_bytes() != first
    assert key_file.read_bytes() == key
    assert x509.load_der_x509_certificate(first).not_valid_after_utc > renew_at


def test_a_lost_key_is_made_again_with_a_new_certificate(tmp_path: Path) -> None:
    certificate_file, key_file, _ = own_certificate(tmp_path, NOW)
    first = certificate_file.read_bytes()
    key_file.unlink()
    own_certificate(tmp_path, NOW)
    assert certificate_file.read_bytes() != first


@pytest.mark.parametrize("name", ["certificate.der", "key.pem"])
def test_what_is_no_certificate_or_key_is_said_to_be_none(tmp_path: Path, name: str) -> None:
    own_certificate(tmp_path, NOW)
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(CertificateError, match=name):
        own_certificate(tmp_path, NOW)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('security = { directory = "d" }', "server_certificate_file or server_fingerprint"),
        ('security = { server_fingerprint = "ab", directory = "d" }', "64 hex digits"),
        (f'security = {{ server_fingerprint = "{"a" * 64}" }}', "or a directory"),
        (f'security = {{ server_fingerprint = "{"a" * 64}", key_file = "k" }}', "certificate_file or key_file"),
        ('username = "a"', "username without password"),
        ('username = "a"\npassword_env = "A"\npassword_file = "b"', "password_file and password_env"),
        ('user_certificate_file = "a"', "user_certificate_file or user_key_file"),
        ('user_certificate_file = "a"\nuser_key_file = "b"', "without security"),
    ],
)
def test_half_a_security_is_refused_by_the_configuration(extra: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edge.plan(
            edge.head(),
            edge.opcua("opc.tcp://127.0.0.1:1", extra=extra),
            edge.device("kiln", FEED, connection="dcs", unit_id=None),
        )

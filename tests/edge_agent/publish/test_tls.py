"""TLS and mutual TLS, users and passwords: against Mosquitto, and the test's own broker behind OpenSSL."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from edge_agent.config import Mqtt, Tls
from edge_agent.publish import credentials
from tests.conftest import _missing
from tests.support.certificates import Authority, serial
from tests.support.mqtt_responder import MqttResponder
from tests.support.senders import Sender
from tests.support.services import ServiceError
from tests.support.tls_broker import secure_mosquitto
from tests.support.waiting import wait_until

SECRET = "correct horse battery"


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    """The authority that all trust who should."""
    return Authority(tmp_path, "ours")


@pytest.fixture(params=["mosquitto", "responder"])
def serve(request: pytest.FixtureRequest, tmp_path: Path, ours: Authority) -> Iterator[Callable[..., int]]:
    """Starts a broker with a certificate, and tells its port."""
    with ExitStack() as stack:

        def make(certificate: tuple[Path, Path], *, clients: bool = False) -> int:
            made: AbstractContextManager[Broker | MqttResponder]
            if request.param == "responder":
                made = responder(ours, certificate, clients=clients)
            else:
                made = secure_mosquitto(tmp_path, ours.file, certificate, clients=clients)
            return entered(stack, made).port

        yield make


def entered(stack: ExitStack, made: AbstractContextManager[Broker | MqttResponder]) -> Broker | MqttResponder:
    try:
        return stack.enter_context(made)
    except ServiceError as error:
        _missing(error)
        raise


@contextmanager
def responder(ours: Authority, certificate: tuple[Path, Path], *, clients: bool = False) -> Iterator[MqttResponder]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours.file)
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED if clients else ssl.CERT_OPTIONAL
    with MqttResponder(context) as found:
        yield found


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Sender]]:
    senders: list[Sender] = []

    def make(port: int, **mqtt: object) -> Sender:
        senders.append(Sender(tmp_path / "buffer.sqlite", port, delivery="broker", **mqtt))
        senders[-1].publisher.start()
        return senders[-1]

    yield make
    for sender in senders:
        sender.stop()


def told(caplog: pytest.LogCaptureFixture, reason: str) -> bool:
    """Whether the log says why there is no connection."""

    def found() -> bool:
        return any("no connection to the broker" in line and reason in line for line in caplog.messages)

    wait_until(found, f"{reason!r} in the log", timeout_s=20, every_s=0.02)
    return True


def delivers(sender: Sender) -> bool:
    sender.append(3)
    wait_until(lambda: sender.pending() == 0, "everything acknowledged", every_s=0.02)
    return sender.signals.published == 4


def test_a_broker_with_a_certificate_of_the_right_authority_is_trusted(
    serve: Callable[..., int], connect: Callable[..., Sender], ours: Authority
) -> None:
    port = serve(ours.issue("broker"))
    assert delivers(connect(port, tls=Tls(ca_file=ours.file)))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("authority", "unable to get local issuer certificate"),
        ("host", "certificate is not valid for '127.0.0.1'"),
        ("expired", "certificate has expired"),
        ("early", "certificate is not yet valid"),
    ],
)
def test_a_broker_that_is_not_who_it_should_be_is_left(
    serve: Callable[..., int],
    connect: Callable[..., Sender],
    ours: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    wrong: str,
    reason: str,
) -> None:
    certificate = {
        "authority": lambda: Authority(tmp_path, "theirs").issue("broker"),
        "host": lambda: ours.issue("broker", address=None),
        "expired": lambda: ours.issue("broker", days=(-30, -1)),
        "early": lambda: ours.issue("broker", days=(1, 30)),
    }[wrong]()
    port = serve(certificate)
    sender = connect(port, tls=Tls(ca_file=ours.file))
    assert told(caplog, reason)
    assert sender.signals.mqtt_version == 0
    assert sender.publisher._versions.next(0.0) == 5


def test_a_broker_without_tls_is_not_spoken_to_in_the_clear(
    connect: Callable[..., Sender], ours: Authority, odd_broker: MqttResponder, caplog: pytest.LogCaptureFixture
) -> None:
    connect(odd_broker.port, tls=Tls(ca_file=ours.file), username="gw1")
    assert told(caplog, f"127.0.0.1:{odd_broker.port}")
    assert not any(seen.version for seen in odd_broker.seen)


def test_the_agent_shows_its_certificate_where_the_broker_wants_one(
    serve: Callable[..., int], connect: Callable[..., Sender], ours: Authority
) -> None:
    port = serve(ours.issue("broker"), clients=True)
    certificate, key = ours.issue("gw1", address=None)
    assert delivers(connect(port, tls=Tls(ca_file=ours.file, certificate_file=certificate, key_file=key)))


@pytest.mark.parametrize(("shown", "reason"), [("none", "certificate required"), ("theirs", "unknown ca")])
def test_without_a_certificate_that_the_broker_trusts_the_log_says_so(
    serve: Callable[..., int],
    connect: Callable[..., Sender],
    ours: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    shown: str,
    reason: str,
) -> None:
    port = serve(ours.issue("broker"), clients=True)
    tls = Tls(ca_file=ours.file)
    if shown == "theirs":
        certificate, key = Authority(tmp_path, "theirs").issue("gw1")
        tls = Tls(ca_file=ours.file, certificate_file=certificate, key_file=key)
    connect(port, tls=tls)
    assert told(caplog, reason)
    assert "PRIVATE KEY" not in caplog.text


@pytest.mark.parametrize("version", [5, 3])
def test_a_wrong_password_is_refused_and_named_but_not_shown(
    connect: Callable[..., Sender], ours: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    caplog.set_level("DEBUG")
    password = tmp_path / "password"
    password.write_text("wrong " + SECRET)
    with ExitStack() as stack:
        made = secure_mosquitto(tmp_path, ours.file, ours.issue("broker"), users={"gw1": SECRET})
        broker = entered(stack, made)
        sender = connect(
            broker.port, version=version, tls=Tls(ca_file=ours.file), username="gw1", password_file=password
        )
        assert told(caplog, "the broker refuses the connection of user 'gw1': Not authorized")
        assert SECRET not in caplog.text
        # The right one is taken without a restart.
        password.write_text(SECRET + "\n")
        assert delivers(sender)
        assert SECRET not in caplog.text


def test_renewed_certificates_are_used_at_the_next_connection(
    connect: Callable[..., Sender], ours: Authority, tmp_path: Path
) -> None:
    with responder(ours, ours.issue("broker"), clients=True) as broker:
        certificate, key = ours.issue("gw1")
        before = serial(certificate)
        sender = connect(broker.port, tls=Tls(ca_file=ours.file, certificate_file=certificate, key_file=key)).online()
        assert broker.seen[-1].serial == before
        for new, old in zip(ours.issue("renewed"), (certificate, key), strict=True):
            shutil.copy(new, old)
        assert delivers(sender)
        assert len(broker.seen) == 1
        broker.hang_up()
        wait_until(lambda: len(broker.seen) == 2 and sender.signals.mqtt_version == 5, "the next connection")
        assert broker.seen[-1].serial == serial(certificate) != before


def test_an_authority_that_comes_later_is_used_at_the_next_connection(
    connect: Callable[..., Sender], ours: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = tmp_path / "late.pem"
    with responder(ours, ours.issue("broker")) as broker:
        sender = connect(broker.port, tls=Tls(ca_file=late))
        assert told(caplog, f"mqtt.tls.ca_file {late}: No such file or directory")
        shutil.copy(ours.file, late)
        assert delivers(sender)


# Files that are not what they should be


def test_each_unusable_file_is_named(ours: Authority, tmp_path: Path) -> None:
    certificate, key = ours.issue("gw1")
    _, other_key = ours.issue("other")
    nonsense, missing = tmp_path / "nonsense.pem", tmp_path / "missing.pem"
    nonsense.write_text("nonsense")

    def refused(**files: Path) -> str:
        with pytest.raises(credentials.CredentialsError) as caught:
            credentials.tls_context(Tls.model_validate({"ca_file": ours.file} | files))
        return str(caught.value)

    assert refused(ca_file=missing) == f"mqtt.tls.ca_file {missing}: No such file or directory"
    assert f"mqtt.tls.ca_file {nonsense}: " in refused(ca_file=nonsense)
    assert f"mqtt.tls.certificate_file {missing}: " in refused(certificate_file=missing, key_file=key)
    assert f"mqtt.tls.key_file {missing}: " in refused(certificate_file=certificate, key_file=missing)
    mismatch = refused(certificate_file=certificate, key_file=other_key)
    assert f"mqtt.tls.certificate_file {certificate} with key_file {other_key}: " in mismatch
    assert "KEY_VALUES_MISMATCH" in mismatch


def test_an_encrypted_key_is_refused_instead_of_asking_at_the_terminal(ours: Authority) -> None:
    certificate, key = ours.issue("gw1", passphrase=b"secret")
    with pytest.raises(credentials.CredentialsError, match="is encrypted; allowed: a key without passphrase"):
        credentials.tls_context(Tls(ca_file=ours.file, certificate_file=certificate, key_file=key))


def test_a_password_that_cannot_be_read_is_named_but_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "password"

    def refused(**where: object) -> str:
        with pytest.raises(credentials.CredentialsError) as caught:
            credentials.password(Mqtt.model_validate({"host": "a", "username": "gw1"} | where))
        assert caught.value.__cause__ is None or "\\xff" not in repr(caught.value.__cause__)
        return str(caught.value)

    assert refused(password_file=path) == f"mqtt.password_file {path}: No such file or directory"
    path.write_bytes(b"\xff" + SECRET.encode())
    assert refused(password_file=path) == f"mqtt.password_file {path} is not text; allowed: UTF-8"
    monkeypatch.delenv("GW1_PASSWORD", raising=False)
    assert refused(password_env="GW1_PASSWORD") == "mqtt.password_env: the environment has no variable GW1_PASSWORD"
    monkeypatch.setenv("GW1_PASSWORD", SECRET)
    assert credentials.password(Mqtt(host="a", username="gw1", password_env="GW1_PASSWORD")) == SECRET
    assert credentials.password(Mqtt(host="a")) is None

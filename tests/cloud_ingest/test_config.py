from __future__ import annotations

from pathlib import Path

import pytest

from cloud_ingest import config
from protocols.config import ConfigError

MINIMAL = """
[store]
dsn = "postgresql://localhost/x"
[mqtt]
host = "broker"
"""


def load(tmp_path: Path, text: str, **environment: str) -> config.Config:
    file = tmp_path / "ingest.toml"
    file.write_text(text)
    return config.load(file, environment)


def test_the_sample_is_valid_and_says_the_defaults(tmp_path: Path) -> None:
    plain = load(tmp_path, config.sample())
    lines = config.sample().splitlines()
    options: tuple[str, ...] = (
        "registration",
        "migrate",
        "chunk_days",
        "statement_",
        "version",
        "keepalive",
        "session_exp",
        "receive_",
        "flush_",
    )
    options = (
        *options,
        "writers",
        "max_ahead",
        "announce_",
        "sweep_",
        "feed_keep",
        "ledger_keep",
        "client_id",
        "host",
        "port",
    )
    shown = [
        line.removeprefix("# ") if line.startswith(tuple(f"# {option}" for option in options)) else line
        for line in lines
    ]
    assert sum(line.startswith(options) for line in shown) >= len(options)
    assert load(tmp_path, "\n".join(shown)) == plain


def test_file_names_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("s3cret\n")
    text = MINIMAL.replace("[mqtt]", 'password_file = "pw"\n[mqtt]') + 'password_file = "mq"\n'
    found = load(
        tmp_path, text + '[mqtt.tls]\nca_file = "/etc/ca.pem"\n[[settle.plant]]\ntenant = "a"\nfile = "p.toml"\n'
    )
    assert "s3cret" in found.store.connection_string()
    assert found.mqtt is not None
    assert found.mqtt.password_file == tmp_path / "mq"
    assert found.mqtt.tls is not None
    assert found.mqtt.tls.ca_file == Path("/etc/ca.pem")
    assert found.settle.plant[0].file == str(tmp_path / "p.toml")


def test_the_environment_may_give_the_broker(tmp_path: Path) -> None:
    text = MINIMAL.replace('"broker"', '"${H}"\nport = "${P}"\nversion = "${V}"')
    found = load(tmp_path, text, H="h", P="1884", V="3")
    assert found.mqtt is not None
    assert (found.mqtt.host, found.mqtt.port, found.mqtt.version) == ("h", 1884, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[store]\ndsn='x'", "connection string"),
        ("[store]\ndsn='dbname=x'", "role ingest needs a section \\[mqtt\\]"),
        (MINIMAL.replace("host", "hots"), "mqtt.hots: unknown key"),
        (MINIMAL + "version = 4", "mqtt.version"),
        (MINIMAL + "version = 3\ngroup = 'g'", "with version 5 only"),
        (MINIMAL + "group = 'a/b'", "group 'a/b'"),
        (MINIMAL + "[mqtt.tls]\ncert_file='c'", "both or neither"),
        (MINIMAL + "[ingest]\nwriters = 0", "ingest.writers"),
        (MINIMAL + "[ingest]\nregistration = 'open'", "ingest.registration"),
        ("roles = ['ingest', 'ingest']" + MINIMAL, "each once"),
        ("roles = ['web']" + MINIMAL, "roles"),
        ("not toml", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_refused_with_place_and_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load(tmp_path, text)
    assert "ingest.toml" in str(raised.value)


def test_a_missing_secret_names_its_file(tmp_path: Path) -> None:
    found = load(tmp_path, MINIMAL.replace("[mqtt]", 'password_file = "none"\n[mqtt]'))
    with pytest.raises(ConfigError, match="none: can't be read"):
        found.store.connection_string()


def test_settle_and_api_do_without_a_broker(tmp_path: Path) -> None:
    assert load(tmp_path, "roles = ['settle', 'api']\n[store]\ndsn = 'dbname=x'\n").mqtt is None

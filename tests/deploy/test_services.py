"""The services that the other tests stand on are the real ones."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import psycopg

from deploy.local.broker import Broker


def test_the_timescale_database_is_timescaledb_apache(timescale_database_dsn: str) -> None:
    with psycopg.connect(timescale_database_dsn) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        row = connection.execute("SELECT current_setting('timescaledb.license')").fetchone()
    assert row == ("apache",)


def test_the_plain_database_has_no_timescaledb(plain_database_dsn: str) -> None:
    with psycopg.connect(plain_database_dsn) as connection:
        row = connection.execute("SELECT current_setting('timescaledb.license', true)").fetchone()
    assert row == (None,)


def test_a_message_crosses_the_mosquitto_broker(
    mosquitto: Broker, independent_client: Callable[[str], list[str]]
) -> None:
    address = ["-h", mosquitto.host, "-p", str(mosquitto.port), "-t", "probe", "-V", "5"]
    subprocess.run([*independent_client("mosquitto_pub"), *address, "-r", "-m", "hello"], check=True, timeout=30)
    heard = subprocess.run(
        [*independent_client("mosquitto_sub"), *address, "-C", "1"], check=True, timeout=30, capture_output=True
    )
    assert heard.stdout == b"hello\n"

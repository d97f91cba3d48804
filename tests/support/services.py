"""Real services for tests, found in this order: given by URL; Docker; on this machine; a Debian root.

Each `Provider` function returns None with a reason when its way is closed; the fixtures in `conftest.py`
skip loudly then, or fail when `METERCARBON_REQUIRE_SERVICES` is set, as CI does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from deploy.local.broker import Broker, local_broker
from deploy.local.ports import free_port, wait_for_port
from deploy.local.processes import Child
from tests.support import debian

TIMESCALE_IMAGE = "timescale/timescaledb:2.19.3-pg17-oss"
MOSQUITTO_IMAGE = "eclipse-mosquitto:2"

_MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
user root
"""


class ServiceError(Exception):
    """No way to get the service works here; the message lists what was tried."""


def docker_answers() -> bool:
    """Whether a Docker engine (not only its client) is there."""
    if not shutil.which("docker"):
        return False
    asked = subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False)
    return asked.returncode == 0


@contextmanager
def timescale(directory: Path) -> Iterator[str]:
    """DSN of a TimescaleDB server (Apache-2 edition, or what the given DSN has).

    Raises
    ------
    ServiceError
        If there is none and none can be started.
    """
    if given := os.environ.get("METERCARBON_TEST_DSN_TIMESCALE"):
        yield given
    elif docker_answers():
        with _timescale_in_docker() as dsn:
            yield dsn
    else:
        with _timescale_in_root(directory) as dsn:
            yield dsn


@contextmanager
def _timescale_in_docker() -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer(
        TIMESCALE_IMAGE, username="postgres", password="test", dbname="postgres", driver=None
    ) as box:
        yield str(box.get_connection_url())


@contextmanager
def _timescale_in_root(directory: Path) -> Iterator[str]:
    try:
        root = debian.debian_root()
    except debian.RootError as error:
        raise ServiceError(f"TimescaleDB: no DSN given, no Docker engine, and no Debian root: {error}") from error
    if os.geteuid() != 0:
        raise ServiceError("TimescaleDB: the Debian root is there, but chroot takes root")
    inside = f"/var/lib/postgresql/test-{uuid.uuid4().hex}"
    outside = root / inside.lstrip("/")
    binaries = "/usr/lib/postgresql/17/bin"
    try:
        subprocess.run(
            debian.chroot(
                root,
                f"{binaries}/initdb",
                "-D",
                inside,
                "-U",
                "postgres",
                "--auth=trust",
                "-E",
                "UTF8",
                user="postgres",
            ),
            check=True,
            capture_output=True,
            timeout=120,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
        port = free_port()
        # fsync off: these tests kill processes, never the machine.
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": inside,
            "shared_preload_libraries": "timescaledb",
            "timescaledb.telemetry_level": "off",
            "dynamic_shared_memory_type": "mmap",
            "fsync": "off",
            "max_connections": "100",
            "timezone": "UTC",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = debian.chroot(root, f"{binaries}/postgres", "-D", inside, *options, user="postgres")
        environment = {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
        with Child("TimescaleDB", command, directory / "timescaledb.log", environment) as child:
            wait_for_port("127.0.0.1", port, 60, "TimescaleDB")
            dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            wait_for_database(dsn, child)
            yield dsn
            child.require()
    finally:
        shutil.rmtree(outside, ignore_errors=True)


def wait_for_database(dsn: str, child: Child | None = None, timeout_s: float = 60) -> None:
    """Wait until a server answers queries."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with psycopg.connect(dsn, connect_timeout=5) as connection:
                connection.execute("SELECT 1")
                return
        except psycopg.OperationalError as error:
            if child is not None:
                child.require()
            if time.monotonic() > deadline:
                raise ServiceError(f"the database does not answer after {timeout_s:g} s: {error}") from error
            time.sleep(0.1)


@contextmanager
def mosquitto(directory: Path) -> Iterator[Broker]:
    """A Mosquitto without persistence that a test may kill and start again.

    Raises
    ------
    ServiceError
        If none can be started.
    """
    if shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin"):
        broker = local_broker(directory, kind="mosquitto")
    elif docker_answers():
        broker = _mosquitto_in_docker(directory)
    else:
        broker = _mosquitto_in_root(directory)
    broker.start()
    try:
        yield broker
    finally:
        broker.child.kill()


def _mosquitto_in_docker(directory: Path) -> Broker:
    """Run by the Docker client in the foreground, so that the container ends with its process."""
    port = free_port()
    config = directory / "mosquitto.conf"
    config.write_text(_MOSQUITTO.format(port=port))
    name = f"metercarbon-test-{uuid.uuid4().hex}"
    command = ["docker", "run", "--rm", "--init", "--network=host", "--name", name]
    command += ["-v", f"{config}:/mosquitto/config/mosquitto.conf:ro", MOSQUITTO_IMAGE]
    return Broker("mosquitto", "127.0.0.1", port, Child("mosquitto", command, directory / "mosquitto.log"))


def _mosquitto_in_root(directory: Path) -> Broker:
    try:
        root = debian.debian_root()
    except debian.RootError as error:
        raise ServiceError(f"Mosquitto: not installed, no Docker engine, and no Debian root: {error}") from error
    port = free_port()
    inside = f"/tmp/mosquitto-{uuid.uuid4().hex}.conf"
    (root / inside.lstrip("/")).write_text(_MOSQUITTO.format(port=port))
    command = debian.chroot(root, "/usr/sbin/mosquitto", "-c", inside)
    return Broker("mosquitto", "127.0.0.1", port, Child("mosquitto", command, directory / "mosquitto.log"))


def independent_client(name: str) -> list[str]:
    """Arguments that run an independent client such as ``mbpoll`` or ``mosquitto_sub``.

    Raises
    ------
    ServiceError
        If it is neither on this machine nor in a Debian root.
    """
    if found := shutil.which(name):
        return [found]
    try:
        root = debian.debian_root()
    except debian.RootError as error:
        raise ServiceError(f"{name}: not installed, and no Debian root: {error}") from error
    return debian.chroot(root, f"/usr/bin/{name}")


@contextmanager
def fresh_database(server_dsn: str) -> Iterator[str]:
    """DSN of a new, empty database on a server; dropped at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield psycopg.conninfo.make_conninfo(server_dsn, dbname=name)
    finally:
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

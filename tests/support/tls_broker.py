"""Mosquitto with TLS, certificates of clients, and passwords: on this machine, or in the Debian root."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.broker import Broker
from deploy.local.ports import free_port
from deploy.local.processes import Child
from tests.support import debian
from tests.support.services import ServiceError

_CONFIG = """\
listener {port} 127.0.0.1
persistence false
cafile {folder}/ca.pem
certfile {folder}/broker.pem
keyfile {folder}/broker.key
require_certificate {clients}
allow_anonymous {anonymous}
set_tcp_nodelay true
"""
_ROUNDS = 101


@contextmanager
def secure_mosquitto(
    directory: Path,
    authority: Path,
    certificate: tuple[Path, Path],
    *,
    clients: bool = False,
    users: dict[str, str] | None = None,
    more: str = "",
) -> Iterator[Broker]:
    """A broker while the block lasts.

    Parameters
    ----------
    directory
        For its log.
    authority
        Whose certificates of clients it takes.
    certificate
        Its own, and the key.
    clients
        Whether clients must show a certificate.
    users
        Passwords by user; None: anybody may connect.
    more
        Lines for its configuration.

    Raises
    ------
    ServiceError
        If there is no Mosquitto.
    """
    port = free_port()
    here = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    root = Path("/") if here else _root()
    inside = Path(f"/tmp/mosquitto-{uuid.uuid4().hex}")
    outside = root / inside.relative_to("/")
    outside.mkdir(mode=0o755)
    try:
        for source, name in ((authority, "ca.pem"), (certificate[0], "broker.pem"), (certificate[1], "broker.key")):
            shutil.copy(source, outside / name)
        config = _CONFIG.format(
            port=port, folder=inside, clients=str(clients).lower(), anonymous=str(users is None).lower()
        )
        config += more
        if os.geteuid() == 0:
            config += "user root\n"
        if users is not None:
            config += f"password_file {inside}/users\n"
            passwords = outside / "users"
            passwords.write_text("".join(f"{user}:{_hashed(password)}\n" for user, password in users.items()))
            passwords.chmod(0o600)
        (outside / "mosquitto.conf").write_text(config)
        arguments = ["-c", f"{inside}/mosquitto.conf"]
        command = [here, *arguments] if here else debian.chroot(root, "/usr/sbin/mosquitto", *arguments)
        broker = Broker("mosquitto", "127.0.0.1", port, Child("mosquitto", command, directory / "mosquitto.log"))
        broker.start()
        try:
            yield broker
        finally:
            broker.child.kill()
    finally:
        shutil.rmtree(outside, ignore_errors=True)


def _root() -> Path:
    try:
        return debian.debian_root()
    except debian.RootError as error:
        raise ServiceError(f"Mosquitto: not installed, and no Debian root: {error}") from error


def _hashed(password: str) -> str:
    """As mosquitto_passwd writes it."""
    salt = os.urandom(12)
    found = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS, 64)
    return f"$7${_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(found).decode()}"

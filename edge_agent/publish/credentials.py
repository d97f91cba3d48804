"""Who the agent is to the broker, and whom it trusts. Files are read anew for each connection.

What goes wrong is told with the name of the setting and of its file, never with what is in it.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from edge_agent.config import Mqtt, Tls
from edge_agent.errors import EdgeError


class CredentialsError(EdgeError):
    """A password, key or certificate for the broker cannot be read or used."""


class _Socket(ssl.SSLSocket):
    """Is closed when the other side is not who it should be; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except Exception:
            self.close()
            raise


def password(settings: Mqtt) -> str | None:
    """The password; None if there is none.

    Raises
    ------
    CredentialsError
        If it is not where the settings say.
    """
    if settings.password_file is not None:
        try:
            return settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise CredentialsError(f"mqtt.password_file {settings.password_file}: {error.strerror}") from error
        except UnicodeDecodeError:
            # Not chained: the original names bytes of the password.
            raise CredentialsError(f"mqtt.password_file {settings.password_file} is not text; allowed: UTF-8") from None
    if settings.password_env is None:
        return None
    found = os.environ.get(settings.password_env)
    if found is None:
        raise CredentialsError(f"mqtt.password_env: the environment has no variable {settings.password_env}")
    return found


def tls_context(tls: Tls) -> ssl.SSLContext:
    """What checks the broker's certificate and host name, and shows the agent's certificate if it has one.

    Raises
    ------
    CredentialsError
        If a file is missing or is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:
        raise _unusable("ca_file", tls.ca_file, error) from error
    context.sslsocket_class = _Socket
    if tls.certificate_file is None or tls.key_file is None:
        return context
    for name, path in (("certificate_file", tls.certificate_file), ("key_file", tls.key_file)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise _unusable(name, path, error) from error
    try:
        context.load_cert_chain(tls.certificate_file, tls.key_file, password=_encrypted)
    except OSError as error:
        raise _unusable("certificate_file", tls.certificate_file, error, f" with key_file {tls.key_file}") from error
    except ValueError as error:
        raise CredentialsError(f"mqtt.tls.key_file {tls.key_file} {error}") from error
    return context


def _unusable(name: str, path: Path | None, error: OSError, more: str = "") -> CredentialsError:
    reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or str(error)
    return CredentialsError(f"mqtt.tls.{name} {path}{more}: {reason}")


def _encrypted() -> str:
    """Without this OpenSSL would ask at the terminal, and wait."""
    raise ValueError("is encrypted; allowed: a key without passphrase, readable by the agent only")

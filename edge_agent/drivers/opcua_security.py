"""OPC-UA: who the agent is, and that the server is the one that is meant.

Invariants

- With security configured, the server's certificate is compared with the known one before anything is sent
  but the question for it; the channel is then made with the known key.
- The agent's own key is readable by its user only, and is kept when the certificate is renewed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asyncua import ua
from asyncua.client.client import Client
from asyncua.crypto import security_policies, uacrypto
from asyncua.crypto.cert_gen import generate_self_signed_app_certificate
from asyncua.ua.status_codes import StatusCodes
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge_agent.config import OpcUa, OpcUaSecurity
from edge_agent.errors import CertificateError

_log = logging.getLogger(__name__)

NEVER_S = float("inf")
_VALID_DAYS = 730
_RENEW_BEFORE = timedelta(days=60)
_KEY_BITS = 2048
_CERTIFICATE_FILE = "certificate.der"
_DER_HEADER = 4
_DER_LONG = 0x80
_POLICIES: dict[str, type[security_policies.SecurityPolicy]] = {
    "Basic256Sha256": security_policies.SecurityPolicyBasic256Sha256,
    "Aes128Sha256RsaOaep": security_policies.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256Sha256RsaPss": security_policies.SecurityPolicyAes256Sha256RsaPss,
}

_USER_REFUSED = frozenset(
    {
        StatusCodes.BadUserAccessDenied,
        StatusCodes.BadIdentityTokenInvalid,
        StatusCodes.BadIdentityTokenRejected,
        StatusCodes.BadUserSignatureInvalid,
    }
)
_CERTIFICATE_REFUSED = frozenset(
    {StatusCodes.BadSecurityChecksFailed}
    | {code for name, code in vars(StatusCodes).items() if name.startswith("BadCertificate")}
)


async def make_safe(client: Client, settings: OpcUa) -> float:
    """Prepare a client for security and user as configured; returns until when it may be used [s since 1970].

    Raises
    ------
    CertificateError
        If a certificate is not the known one, or cannot be used.
    OSError, asyncio.TimeoutError, UaError
        If the server cannot be asked.
    """
    if settings.username is not None:
        client.set_user(settings.username)
        client.set_password(await asyncio.to_thread(_password, settings))
        if settings.security is None:
            _log.warning("connection %s: the password is sent over a channel without security", settings.name)
    security = settings.security
    if security is None:
        return NEVER_S
    certificate_file, key_file, renew_at = await asyncio.to_thread(_own, security)
    own = await asyncio.to_thread(_certificate, certificate_file)
    client.application_uri = _application_uri(own) or client.application_uri
    server = await _server_certificate(client, security)
    try:
        await client.set_security(
            _POLICIES[security.policy],
            certificate_file,
            key_file,
            server_certificate=uacrypto.CertProperties(server.public_bytes(Encoding.DER), extension="der"),
            mode=ua.MessageSecurityMode[security.mode],
        )
        if settings.user_certificate_file is not None and settings.user_key_file is not None:
            await client.load_client_certificate(str(settings.user_certificate_file))
            await client.load_private_key(settings.user_key_file)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"a certificate or key cannot be used: {error}") from error
    return renew_at


def explained(error: Exception, settings: OpcUa) -> str:
    """Why a server did not let the agent in, for people: whom or what it refuses, where its answer says so."""
    code, name = getattr(error, "code", None), type(error).__name__
    if code in _USER_REFUSED:
        who = "a client without a user"
        if settings.username is not None:
            who = f"user {settings.username!r} with this password"
        elif settings.user_certificate_file is not None:
            who = f"the user of certificate {settings.user_certificate_file}"
        return f"the server refuses {who} ({name})"
    if code in _CERTIFICATE_REFUSED and settings.security is not None:
        directory = settings.security.directory
        file = settings.security.certificate_file if directory is None else directory / _CERTIFICATE_FILE
        return f"the server refuses the agent's certificate {file}, which it must trust ({name})"
    return str(error) if isinstance(error, CertificateError) else repr(error)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, 64 lower-case hex digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def own_certificate(directory: Path, now: datetime) -> tuple[Path, Path, datetime]:
    """The agent's certificate and key in a directory, and when it is renewed; made or renewed if necessary.

    Raises
    ------
    OSError
        If the directory cannot be written.
    CertificateError
        If there is something in its files that is no certificate or key.
    """
    certificate_file, key_file = directory / _CERTIFICATE_FILE, directory / "key.pem"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = _kept_key(key_file)
    if key is None:
        key = rsa.generate_private_key(public_exponent=65_537, key_size=_KEY_BITS)
        _write(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    if certificate_file.exists():
        old = _certificate(certificate_file)
        renew_at = old.not_valid_after_utc - _RENEW_BEFORE
        if now < renew_at and old.public_key() == key.public_key():
            return certificate_file, key_file, renew_at
    host = socket.gethostname()
    uri = f"urn:{host}:metercarbon:edge-agent"
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri), x509.DNSName(host)]
    usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
    made = generate_self_signed_app_certificate(key, "metercarbon edge-agent", {}, names, usage, _VALID_DAYS)
    _write(certificate_file, made.public_bytes(Encoding.DER))
    _log.warning(
        "made the certificate %s with fingerprint %s; the OPC-UA server must trust it",
        certificate_file,
        fingerprint(made),
    )
    return certificate_file, key_file, made.not_valid_after_utc - _RENEW_BEFORE


def _own(security: OpcUaSecurity) -> tuple[Path, Path, float]:
    if security.directory is not None:
        certificate_file, key_file, renew_at = own_certificate(security.directory, datetime.now(UTC))
        return certificate_file, key_file, renew_at.timestamp()
    if security.certificate_file is None or security.key_file is None:
        raise CertificateError("neither certificate_file and key_file nor a directory is given")
    return security.certificate_file, security.key_file, NEVER_S


async def _server_certificate(client: Client, security: OpcUaSecurity) -> x509.Certificate:
    """Ask the server for its certificate, and refuse another one than the known one."""
    endpoints = await client.connect_and_get_server_endpoints()
    uri, mode = _POLICIES[security.policy].URI, ua.MessageSecurityMode[security.mode]
    fitting = [found for found in endpoints if found.SecurityPolicyUri == uri and found.SecurityMode == mode]
    if not fitting or not fitting[0].ServerCertificate:
        offered = ", ".join(
            sorted(
                {f"{str(found.SecurityPolicyUri).rpartition('#')[2]}/{found.SecurityMode.name}" for found in endpoints}
            )
        )
        raise CertificateError(f"the server does not offer {security.policy}/{security.mode}; it offers: {offered}")
    try:
        found = x509.load_der_x509_certificate(_first(fitting[0].ServerCertificate))
    except ValueError as error:
        raise CertificateError(f"the server's certificate cannot be read: {error}") from error
    known = security.server_fingerprint
    if known is None and security.server_certificate_file is not None:
        known = fingerprint(await asyncio.to_thread(_certificate, security.server_certificate_file))
    if fingerprint(found) != known:
        raise CertificateError(f"the server's certificate has fingerprint {fingerprint(found)}; allowed: {known}")
    return found


def _first(chain: bytes) -> bytes:
    """The first of the certificates that a server sends one after the other."""
    if len(chain) < _DER_HEADER or not chain[1] & _DER_LONG:
        return chain
    digits = chain[1] & ~_DER_LONG
    return chain[: 2 + digits + int.from_bytes(chain[2 : 2 + digits], "big")]


def _certificate(file: Path) -> x509.Certificate:
    content = file.read_bytes()
    try:
        if content.lstrip().startswith(b"-----"):
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except ValueError as error:
        raise CertificateError(f"{file}: no certificate in PEM or DER") from error


def _kept_key(file: Path) -> rsa.RSAPrivateKey | None:
    if not file.exists():
        return None
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{file}: no private key in PEM without a password") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CertificateError(f"{file}: no RSA key")
    return key


def _application_uri(certificate: x509.Certificate) -> str | None:
    """The URI in a certificate, which servers compare with what the client says it is."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), None)


def _password(settings: OpcUa) -> str:
    if settings.password_file is not None:
        return settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")
    found = os.environ.get(settings.password_env or "")
    if found is None:
        raise CertificateError(f"environment variable {settings.password_env} is not set")
    return found


def _write(file: Path, content: bytes) -> None:
    """Write a file that its owner only can read, wholly or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)

"""Errors of the edge agent. Every message says what was found and what is allowed."""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all errors raised by `edge_agent`."""


class OutboxError(EdgeError):
    """The buffer cannot be used."""


class OutboxLockedError(OutboxError):
    """Another process has this buffer file open."""


class OutboxOwnerError(OutboxError):
    """The buffer file belongs to another tenant or agent, or to a newer version of the product."""


class OutboxClosedError(OutboxError):
    """The buffer was closed, or its writer has failed, before this was written."""


class CertificateError(EdgeError):
    """A certificate is not the expected one, or cannot be used."""

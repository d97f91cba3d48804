"""Why a scan could not be made."""

from __future__ import annotations

from edge_agent.errors import EdgeError


class ScanError(EdgeError):
    """There is no connection, or it was lost for good."""


class ScanUsageError(EdgeError):
    """What was asked for makes no sense; the message says what is allowed."""


class OutOfRequestsError(EdgeError):
    """The scan, or a part of it, has made as many requests as it may."""

"""Errors of settle."""

from __future__ import annotations

from cloud_ingest.errors import CloudError


class SettleError(CloudError):
    """Accounts can't be computed; the message says of what, and why."""

"""Errors of the cloud side."""

from __future__ import annotations


class CloudError(Exception):
    """Base of all errors raised by `cloud_ingest`."""


class StoreError(CloudError):
    """The database is not what the store needs."""


class MigrationError(StoreError):
    """The database's schema is not the one of this program."""


class ContentionError(StoreError):
    """Rows changed under a transaction; trying again helps."""


class UnknownNameError(CloudError):
    """A command names a tenant, site or agent that is not there; the message says which are."""


class RefusedError(CloudError):
    """A message can't be stored as it is; the reason goes with it to the dead letters."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class BarredError(RefusedError):
    """Nothing is taken from this tenant, site or agent: not entered in the ledger, so that the agent keeps it too."""

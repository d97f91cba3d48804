"""Errors of the offline file's build."""

from __future__ import annotations


class OfflineError(Exception):
    """The offline file cannot be built; the message names the step and what it said last."""

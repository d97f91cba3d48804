"""Errors of the local stack."""

from __future__ import annotations


class StackError(Exception):
    """The local stack cannot go on; the message names the part and what it said last."""

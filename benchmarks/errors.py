"""Errors of the benchmarks."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A benchmark can't give its figures; the message says why."""

"""Measured speed and size, each beside what users would take instead, in the same run."""

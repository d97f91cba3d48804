"""Drivers: one file per protocol; `base` says what each of them does."""

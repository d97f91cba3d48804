"""Meter models as data: one TOML file per model in `models`, checked by `schema`, found by `catalogue`."""

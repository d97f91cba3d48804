"""Compositions of the parts: local stack, plant packs."""

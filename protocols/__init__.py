"""Contracts shared by the field side and the cloud side: types, names, wire formats. No I/O."""

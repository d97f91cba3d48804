"""Codecs of batches: one file each, listed in `registry`."""

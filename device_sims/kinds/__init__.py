"""Simulated kinds: what a device of a kind shows of the plant. One file a kind; `registry` finds them."""

"""Kernels: one algorithm a file, arrays in and out, compiled; each has a plain twin in the tests."""

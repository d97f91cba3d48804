"""Simulated plant hardware for tests and load tests."""

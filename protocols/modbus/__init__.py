"""Modbus without a connection: what bytes mean, and which requests to make."""

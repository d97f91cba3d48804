"""The HTTP API: points, readings, accounts, agents, status."""

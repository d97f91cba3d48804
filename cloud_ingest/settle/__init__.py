"""From stored readings to accounts: follows the change feed and recomputes exactly what a change touches."""

"""The database: connections, migrations, editions, ledger, readings, change feed. Knows none of its users."""

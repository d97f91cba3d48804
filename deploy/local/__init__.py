"""The embedded stack: database, broker, plant, agent, ingest and API on one machine, without root or Docker."""

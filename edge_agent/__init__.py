"""The edge agent: polls meters, buffers on disk, publishes, frees what the store has committed."""

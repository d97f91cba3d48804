"""From the broker to the database: subscribe, decode, deduplicate, write, announce what is committed."""

"""Plant packs: a simulated fleet, an agent config, an ingest config and a plant model each."""

"""When devices are asked, and what becomes a reading."""

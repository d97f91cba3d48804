"""What is on a bus or behind a server, before there is a configuration: found by asking, never by writing."""

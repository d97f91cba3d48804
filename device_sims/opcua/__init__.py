"""OPC-UA: a server whose variables follow the plant."""

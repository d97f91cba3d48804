"""From readings to records on disk that wait until the store has them."""

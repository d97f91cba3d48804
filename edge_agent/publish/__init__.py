"""From the disk buffer to the broker."""

"""The plant itself: what its machines do and what its meters would measure, exact at any time."""

"""What whoever operates an agent sees of it: metrics, and whether it makes progress."""

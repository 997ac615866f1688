"""What the service costs, and what peers cost beside it."""

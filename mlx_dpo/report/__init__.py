"""A run's folder as one page to read."""

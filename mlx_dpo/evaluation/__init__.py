"""Is the tuned model better? Held-out numbers and answers side by side."""

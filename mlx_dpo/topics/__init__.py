"""Neural topic models, and preferences between words that improve weak topics."""

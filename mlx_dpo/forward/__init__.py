"""The exact forward: log-probabilities of pairs, whose prompts are computed once, in little memory."""

"""Judging answers: who is asked, how, and what the replies are worth."""

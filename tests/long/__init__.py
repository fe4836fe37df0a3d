"""Proofs that take minutes to hours: run by hand, one at a time, from the project's root."""

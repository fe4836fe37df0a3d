"""Tuned models for other programs."""

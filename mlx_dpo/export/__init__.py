"""Tuned models for elsewhere."""

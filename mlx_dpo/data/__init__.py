"""Rows to batches: formats, sources, splits, templates, tokenize, batches."""

"""This machine: its BLAS, its memory, its GPU, its signals."""

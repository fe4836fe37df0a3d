"""What this machine is and does: its BLAS, its memory, its GPU, its signals."""

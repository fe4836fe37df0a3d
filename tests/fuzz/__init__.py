"""Inputs that nobody would write, made by seeded generators: each ends in a result or a message."""

import os

CASES = int(os.environ.get("MLX_DPO_FUZZ_CASES", "2000"))
"""Inputs of each kind."""

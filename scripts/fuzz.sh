#!/usr/bin/env bash
# Fuzz tests: 20,000 random inputs of each kind of settings and rows, and 2,000 folders.   scripts/fuzz.sh [CASES]
set -euo pipefail
cd "$(dirname "$0")/.."
export OPENBLAS_NUM_THREADS=1 MLX_DPO_FUZZ_CASES="${1:-20000}"
exec .venv/bin/python -m pytest -q -n 2 tests/fuzz

#!/usr/bin/env bash
# Format, lint, tests; of like combinations a few, all with MLX_DPO_EVERY_COMBINATION=1.   scripts/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh dev
.venv/bin/ruff format --check -q .
.venv/bin/ruff check -q .
# Two tests at a time with a BLAS thread each, not one with two: the models are small.
export OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"

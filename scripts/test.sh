#!/usr/bin/env bash
# Format, lint, tests.   scripts/test.sh [--fast] [PYTEST ARGUMENTS]
# --fast leaves out the slow tests and the real model. Of like combinations a few run; all with
# MLX_DPO_EVERY_COMBINATION=1.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --fast ]; then
  shift
  set -- -m "not slow and not real" "$@"
fi
scripts/setup.sh dev
.venv/bin/ruff format --check -q .
.venv/bin/ruff check -q .
# Two tests at a time with a BLAS thread each, not one with two: the models are small.
export OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"

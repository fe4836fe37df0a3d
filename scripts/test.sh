#!/usr/bin/env bash
# Format, lint, tests.   scripts/test.sh [--fast] [PYTEST ARGUMENTS]
# --fast skips the slow tests and the real model. Only a few of many similar combinations run; set
# MLX_DPO_EVERY_COMBINATION=1 to run all.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --fast ]; then
  shift
  set -- -m "not slow and not real" "$@"
fi
scripts/setup.sh dev
.venv/bin/ruff format --check -q .
.venv/bin/ruff check -q .
# Two tests at a time with one BLAS thread each: the models are small.
export OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"

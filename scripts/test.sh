#!/usr/bin/env bash
# Every check of this repository: format, lint, tests.   scripts/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh dev
.venv/bin/ruff format --check -q .
.venv/bin/ruff check -q .
exec .venv/bin/python -m pytest "$@"

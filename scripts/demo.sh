#!/usr/bin/env bash
# Every step, offline, on a tiny Granite hybrid: about four minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec .venv/bin/mlx-dpo demo "$@"

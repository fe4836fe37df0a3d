#!/usr/bin/env bash
# Makes .venv in this repository, installs mlx_dpo into it, and on Linux installs a fast BLAS.
#   scripts/setup.sh [EXTRAS]     for example: scripts/setup.sh dev,report
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:-}

find_python() {
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python3.14; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    echo "$candidate"
    return
  done
  echo "setup: needs Python 3.11 or newer; install it, or name it: PYTHON=python3.12" >&2
  return 1
}

has_blas() { .venv/bin/python -c 'import sys, mlx_dpo; sys.exit(mlx_dpo.blas_note is not None)'; }

# MLX's Linux wheel contains a reference BLAS; OpenBLAS or MKL, loaded before it, is about 40 times faster.
fast_blas() {
  [ "$(uname -s)" = Linux ] && ! has_blas || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "setup: installing Debian's libopenblas0-pthread, for fast float32 on this CPU"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libopenblas0-pthread; } \
      >.venv/openblas.log 2>&1 || true
  fi
  if ! has_blas && [ "$(uname -m)" = x86_64 ]; then
    echo "setup: installing the mkl wheel into .venv (220 MB), for fast float32 on this CPU"
    .venv/bin/python -m pip install -q mkl || true
  fi
  has_blas || echo "setup: no OpenBLAS or MKL could be installed; everything works, but float32 on the CPU is about 40 times slower" >&2
}

if [ ! -x .venv/bin/python ]; then
  python=$(find_python)
  "$python" -m venv .venv
fi
# The stamp records what was installed, so that a second run is fast.
stamp=.venv/installed-${extras:-core}
want=$(cksum <pyproject.toml)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
  echo "setup: installing mlx_dpo into .venv"
  .venv/bin/python -m pip install -q --disable-pip-version-check -e ".${extras:+[$extras]}"
  echo "$want" >"$stamp"
fi
fast_blas

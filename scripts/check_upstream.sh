#!/usr/bin/env bash
# Runs the core tests with the newest mlx and mlx-lm in a fresh environment, whatever pyproject.toml allows; .venv does not change.
#   scripts/check_upstream.sh [PYTEST ARGUMENTS]     to name versions: MLX=0.33.0 MLX_LM=0.33.1 scripts/check_upstream.sh
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}
"$python" -m venv "$work/venv"
new=$work/venv/bin/python

# Only the other dependencies are installed, not the package: pip would apply its version limits.
"$new" - >"$work/others.txt" <<'PY'
import re, tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
lines = project["dependencies"] + project["optional-dependencies"]["report"] + ["pytest>=8"]
print("\n".join(line for line in lines if re.match(r"[a-z0-9-]+", line)[0] not in ("mlx", "mlx-lm")))
PY
[ "$(uname -s)" = Linux ] && mlx="mlx[cpu]" || mlx=mlx
echo "check_upstream: installing the newest mlx and mlx-lm into a temporary environment"
"$new" -m pip install -q --disable-pip-version-check --upgrade \
  "$mlx${MLX:+==$MLX}" "mlx-lm${MLX_LM:+==$MLX_LM}" -r "$work/others.txt"

versions() {
  "$1" -c 'from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "transformers")))'
}
echo "check_upstream: trying $(versions "$new")"
if [ -x .venv/bin/python ]; then echo "check_upstream: in .venv   $(versions .venv/bin/python)"; fi

export PYTHONPATH=$PWD OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
names=0
"$new" - <<'PY' || names=1
import mlx_dpo
from mlx_dpo import upstream

wrong = []
for name in upstream.NAMES:
    try:
        upstream.checked(name)
    except upstream.UpstreamError as error:
        wrong.append(error.what)
if not wrong:
    try:
        upstream.check_all()
    except upstream.UpstreamError as error:
        wrong.append(error.what)
print("check_upstream: private and replaced names: " + ("unchanged" if not wrong else "changed"))
for what in wrong:
    print(" ", what)
raise SystemExit(bool(wrong))
PY
tests=0
"$new" -m pytest -p no:cacheprovider -rfE --tb=line tests/house/test_upstream.py tests/forward tests/models \
  tests/training/test_forward_check.py tests/training/test_proof.py tests/planning "$@" || tests=$?
if [ "$names" = 0 ] && [ "$tests" = 5 ]; then
  echo "check_upstream: no private name changed with $(versions "$new"); no core test matches: $*"
elif [ "$names" = 0 ] && [ "$tests" = 0 ]; then
  echo "check_upstream: nothing failed with $(versions "$new"); lower limits in pyproject.toml and mlx_dpo/upstream.py can be raised"
else
  echo "check_upstream: the checks above failed with $(versions "$new")" >&2
  exit 1
fi

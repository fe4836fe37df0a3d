#!/usr/bin/env bash
# Curated answers to a fused model with Granite 4.0 H-Micro, on a 16 GB Mac. Run again, it goes on where it was.
#
#   LIMIT=100 scripts/run_granite_dpo.sh              a first trial on 100 rows
#   SOURCE=my_answers.jsonl scripts/run_granite_dpo.sh
#
# SOURCE  curated rows (default: those of the config)     MODEL  base model (default: that of the config)
# LIMIT   use only the first so many rows                 OUT    folder of this run (default: runs/granite-dpo)
# CONFIG  settings file (default: config/granite_dpo.yaml); further arguments go to every step, as --set ...
set -euo pipefail
cd "$(dirname "$0")/.."
config=${CONFIG:-config/granite_dpo.yaml}
out=${OUT:-runs/granite-dpo${LIMIT:+-$LIMIT}}
mlx_dpo=${MLX_DPO:-.venv/bin/mlx-dpo}
[ "$mlx_dpo" != .venv/bin/mlx-dpo ] || scripts/setup.sh

settings=(--config "$config" --set "pairs.output=$out/pairs" --set "data.train=$out/pairs/train.jsonl")
settings+=(--set "data.valid=$out/pairs/valid.jsonl" --set "run.output=$out/run")
[ -z "${MODEL:-}" ] || settings+=(--set "model.path=$MODEL")
[ -z "${SOURCE:-}" ] || settings+=(--set "pairs.source=$SOURCE")
[ -z "${LIMIT:-}" ] || settings+=(--set "pairs.limit=$LIMIT")

"$mlx_dpo" gen-pairs "${settings[@]}" "$@"
if [ ! -e "$out/trained" ]; then
  "$mlx_dpo" train --overwrite "${settings[@]}" "$@"
  touch "$out/trained"
fi
"$mlx_dpo" eval --run "$out/run"
[ -e "$out/fused" ] || "$mlx_dpo" fuse --run "$out/run" --output "$out/fused"

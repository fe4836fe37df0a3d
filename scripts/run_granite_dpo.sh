#!/usr/bin/env bash
# From curated answers to a fused model, with Granite 4.0 H-Micro on a 16 GB Mac. Run it again to continue after a stop.
#
#   LIMIT=100 scripts/run_granite_dpo.sh              a first trial on 100 rows
#   SOURCE=my_answers.jsonl scripts/run_granite_dpo.sh
#
# SOURCE  curated rows (default: from the config)         MODEL  base model (default: from the config)
# LIMIT   use only the first LIMIT rows                   CONFIG settings file (default: config/granite_dpo.yaml)
# OUT     folder for pairs/, run/ and fused/ (default: runs/granite-dpo, or runs/granite-dpo-LIMIT)
# METHOD  dpo or sft (default: sft if mlx-dpo inspect advises it, because the answers are far from the model's)
# Further arguments, such as --set section.key=value, are passed to gen-pairs, inspect, train and sft.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
mlx_dpo=${MLX_DPO:-$repository/.venv/bin/mlx-dpo}
[ -n "${MLX_DPO:-}" ] || "$repository/scripts/setup.sh"

config=${CONFIG:-$repository/config/granite_dpo.yaml}
out=${OUT:-$repository/runs/granite-dpo${LIMIT:+-$LIMIT}}
settings=(--config "$config" --set "pairs.output=$out/pairs" --set "data.train=$out/pairs/train.jsonl")
settings+=(--set "data.valid=$out/pairs/valid.jsonl" --set "run.output=$out/run")
settings+=(--set "pairs.source=${SOURCE:-$repository/data/curated.jsonl}")
[ -z "${MODEL:-}" ] || settings+=(--set "model.path=$MODEL")
[ -z "${LIMIT:-}" ] || settings+=(--set "pairs.limit=$LIMIT")

"$mlx_dpo" gen-pairs "${settings[@]}" "$@"

# A method that was decided for this folder is kept.
if [ -e "$out/run/config.yaml" ]; then
    decided=$(grep -q '^  name: sft$' "$out/run/config.yaml" && echo sft || echo dpo)
elif [ -e "$out/method" ]; then
    decided=$(cat "$out/method")
else
    if [ -z "${METHOD:-}" ]; then
        "$mlx_dpo" inspect "${settings[@]}" "$@" --json > "$out/inspection.json"
        METHOD=$(grep -q '"code": "sft_first"' "$out/inspection.json" && echo sft || echo dpo)
    fi
    decided=$METHOD
fi
if [ "${METHOD:-$decided}" != "$decided" ]; then
    echo "$out was started with METHOD=$decided; to use METHOD=$METHOD, choose another folder with OUT" >&2
    exit 1
fi
METHOD=$decided
case $METHOD in
    dpo | sft) echo "$METHOD" > "$out/method" ;;
    *) echo "METHOD is $METHOD; it must be dpo or sft" >&2; exit 1 ;;
esac
echo "method: $METHOD"

# Continues a stopped run; does not change a finished run; refuses a run with other settings or pairs.
case $METHOD in
    dpo) "$mlx_dpo" train "${settings[@]}" "$@" ;;
    sft) "$mlx_dpo" sft "${settings[@]}" --set optimizer.learning_rate=null --set training.epochs=null "$@" ;;
esac
"$mlx_dpo" eval --run "$out/run"

# A fused model that was made from an earlier adapter, before the run was trained on, is replaced.
adapter() { sed -n 's/^ "adapter_sha256": "\([0-9a-f]*\)".*/\1/p' "$1" 2>/dev/null || true; }
if [ ! -e "$out/fused" ]; then
    "$mlx_dpo" fuse --run "$out/run" --output "$out/fused"
elif [ "$(adapter "$out/fused/made_from.json")" != "$(adapter "$out/run/evaluation.json")" ]; then
    echo "$out/fused was not made from the adapter that the run has now: it is made again"
    rm -rf "$out/fused-new"
    "$mlx_dpo" fuse --run "$out/run" --output "$out/fused-new"
    rm -r "$out/fused"
    mv "$out/fused-new" "$out/fused"
fi
echo "adapter: $out/run    fused model: $out/fused"

# The proof that fuse has kept: how like the adapter the fused model is.
likeness=$out/fused/likeness.json
figure() { sed -n "s/^ \"$1\": \([^,]*\),*$/\1/p" "$likeness"; }
if [ -e "$likeness" ]; then
    echo "proof: $likeness    KL ratio $(figure kl_ratio) (at most $(figure max_kl_ratio)), top-1 $(figure top_1)"
else
    echo "proof: none; the fused model was not compared with the adapter"
fi
echo "for other programs: mlx-dpo export hf (or gguf, peft) --run $out/run --output FOLDER"

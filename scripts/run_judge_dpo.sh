#!/usr/bin/env bash
# From prompts to a model tuned by a judge: SFT on curated answers, three samples a prompt from that model, a judge that
# ranks them, DPO on best against worst from the SFT adapter. Run it again to continue after a stop.
# SFT learns nine of ten rows. Only prompts of the other rows are held out, so neither SFT nor DPO sees them.
#
#   scripts/run_judge_dpo.sh                                 with the judge's server of the config
#   JUDGE_URL=https://api.openai.com/v1 JUDGE=gpt-4o-mini scripts/run_judge_dpo.sh
#   JUDGE=models/a-larger-model scripts/run_judge_dpo.sh     a judge on this machine, without a server
#
# SOURCE     curated rows, a JSONL file (default: data/curated.jsonl); the judge sees four of their answers as examples
# LIMIT      use only the first LIMIT rows               MODEL   base model (default: from the config)
# JUDGE      the judge: its name on the server, or a model folder
# JUDGE_URL  the judge's server; with JUDGE alone, the judge runs on this machine
# CONFIG     settings file (default: config/judge.yaml)
# OUT        folder for sft.jsonl, sft/, samples/, judged/ and dpo/ (default: runs/judged, or runs/judged-LIMIT)
# Further arguments, such as --set section.key=value, are passed to every command. A key comes from the environment
# (OPENAI_API_KEY, or the variable that judge.key_variable names).
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
mlx_dpo=${MLX_DPO:-$repository/.venv/bin/mlx-dpo}
[ -n "${MLX_DPO:-}" ] || "$repository/scripts/setup.sh"

config=${CONFIG:-$repository/config/judge.yaml}
out=${OUT:-$repository/runs/judged${LIMIT:+-$LIMIT}}
source=${SOURCE:-$repository/data/curated.jsonl}
mkdir -p "$out"
if [ -n "${LIMIT:-}" ]; then
    head -n "$LIMIT" "$source" > "$out/curated.jsonl"
    source=$out/curated.jsonl
fi
learnt=$out/sft.jsonl
awk 'NF && n++ % 10' "$source" > "$learnt"
settings=(--config "$config" --set "pairs.source=$source" --set "pairs.output=$out/samples")
settings+=(--set "judge.completions=$out/samples/completions.jsonl" --set "judge.output=$out/judged")
settings+=(--set "judge.examples=$source")
[ -z "${MODEL:-}" ] || settings+=(--set "model.path=$MODEL")
if [ -n "${JUDGE_URL:-}" ]; then
    settings+=(--set "judge.url=$JUDGE_URL" --set "judge.model=${JUDGE:-null}")
elif [ -n "${JUDGE:-}" ]; then
    settings+=(--set judge.url=null --set "judge.model=$JUDGE")
fi
from_sft=(--set "model.adapter=$out/sft")

"$mlx_dpo" sft "${settings[@]}" --set "data.train=$learnt" --set data.valid=null --set "run.output=$out/sft" \
    --set optimizer.learning_rate=null "$@"
"$mlx_dpo" gen-pairs "${settings[@]}" "${from_sft[@]}" --set "run.output=$out/dpo" "$@"
"$mlx_dpo" judge "${settings[@]}" --set "judge.trained=$learnt" "$@"
"$mlx_dpo" train "${settings[@]}" "${from_sft[@]}" --set "data.train=$out/judged/train.jsonl" \
    --set "data.valid=$out/judged/valid.jsonl" --set "run.output=$out/dpo" "$@"
"$mlx_dpo" eval --run "$out/dpo"
echo "adapter: $out/dpo    judged pairs: $out/judged"

#!/usr/bin/env bash
# The whole path on the demo world, on a machine with nothing but Python:
# drawn X-rays -> policy -> SFT -> GRPO -> evaluation -> one table, summary.json, report.html and training.html.
#
#   make demo               everything, from the beginning
#   tools/demo.sh start     only the world and the policy after SFT, unless they exist: GRPO starts from them
#
# SFT stops while the policy is mediocre, so that GRPO has something to improve. SFT_STEPS changes its length.
# shellcheck source=tools/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

cd "$ROOT"
DATA="data/demo"
BASE="checkpoints/demo"
OUT="output/demo"

world() {
  "$PYTHON" -m tools.make_demo --output "$DATA" --policy "$BASE" --workers "$(nproc)"
}

sft() {
  "$PYTHON" -m swift.cli.sft --model "$BASE" --dataset "$DATA/annotations/train.json" \
    --output_dir "$OUT/sft" --overwrite_output_dir true --train_type full --check_images false \
    --per_device_train_batch_size 8 --questions_per_row 6 --learning_rate 1e-3 --adam_beta2 0.97 --warmup_steps 30 \
    --logging_steps 10 --max_steps "${SFT_STEPS:-420}"
}

grpo() { # train.sh has the demo's settings
  DEMO=true OUTPUT_DIR="$OUT/grpo" ./train.sh --overwrite_output_dir true
}

evaluate() { # model, result folder, further flags
  "$PYTHON" evaluate.py --model_path "$1" --dataset_folder "$DATA" --output_dir "$2" \
    --batch_size 50 --max_new_tokens 64 "${@:3}"
}

report() {
  "$PYTHON" -m tools.compare_results --sft "$OUT"/eval/sft/*_results.json --grpo "$OUT"/eval/grpo/*_results.json \
    --blind "$OUT"/eval/blind/*_results.json --output "$OUT" --curves "$OUT/grpo/curves.png" --started "$1" \
    --title "SFT and GRPO on held-out questions"
  "$PYTHON" -m tools.training_report "$OUT/grpo" --output "$OUT/grpo" --title "GRPO on the demo world"
}

started="$(date +%s)"
case "${1:-all}" in
start)
  world
  compgen -G "$OUT/sft/checkpoint-*/trainer_state.json" >/dev/null || sft
  ;;
all)
  rm -rf "$OUT/eval"
  world
  sft
  grpo
  evaluate "$OUT/sft" "$OUT/eval/sft"
  evaluate "$OUT/grpo" "$OUT/eval/grpo"
  evaluate "$OUT/sft" "$OUT/eval/blind" --control shuffled # which is also the shuffled control of the folder eval/sft
  evaluate "$OUT/sft" "$OUT/eval/sft" --control blank
  evaluate "$OUT/grpo" "$OUT/eval/grpo" --control blank
  evaluate "$OUT/grpo" "$OUT/eval/grpo" --control shuffled
  report "$started"
  ;;
*)
  fail "unknown stage '$1'; give start, or nothing for everything"
  ;;
esac

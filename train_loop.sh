#!/usr/bin/env bash
# A sweep: one GRPO run for every size, sampling policy, seed, learning rate, G, beta and set of rewards.
#
#   ./train_loop.sh                                                the published sweep, on data/MIMIC-VQA-CoT
#   ./train_loop.sh --dry-run                                      what would be done, and what is done already
#   SIZES="500 1000" TYPES="uniform hard_uniform" SEEDS="0 1 2" EVALUATE=true ./train_loop.sh
#   REWARD_SETS="external_r1v_acc external_kg_jac, external_r1v_acc" ./train_loop.sh    with the accuracy-only baseline
#   GPUS="0 1 2 3" ./train_loop.sh                                 four runs side by side ("0,1 2,3": two GPUs a run)
#   python -m tools.summarize output/sweep                         the table and plots
#
# Runs go to output/sweep/<tag>/, logs to logs/<time>_<tag>.log. Finished runs are skipped and broken ones resumed, so
# Ctrl-C (or a kill) and the same command again go on where it stopped. A run that fails, for want of its data too, is
# listed at the end, and the exit status is then not 0. Further flags go to swift.cli.rlhf as they are.
#
# Where neither ANNOTATIONS nor MODEL is named and data/MIMIC-VQA-CoT is missing, or with DEMO=true, the sweep runs on the
# demo world, with training sets sampled from its pool.
set -euo pipefail

read -ra sizes <<<"${SIZES:-}"
read -ra types <<<"${TYPES:-hard_uniform uniform}"
read -ra seeds <<<"${SEEDS:-42}"
read -ra learning_rates <<<"${LRS:-${LEARNING_RATE:-}}"
read -ra group_sizes <<<"${GENERATIONS:-8}"
read -ra betas <<<"${BETAS:-${BETA:-}}"
IFS=, read -ra reward_sets <<<"${REWARD_SETS:-${REWARDS:-external_r1v_acc external_kg_jac}}" # a comma between sets

read -ra published_sizes <<<"1000 2000 5000"
read -ra demo_sizes <<<"64 128"

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
demo="${DEMO:-false}"
[[ -n "${ANNOTATIONS:-}${MODEL:-}" || -d "$HERE/data/MIMIC-VQA-CoT/annotations" ]] || demo=true
# shellcheck source=tools/launch.sh
source "$HERE/tools/launch.sh"

sweep=(--folder "${SWEEP:-output/sweep}" --logs "${LOGS:-logs}" --status_seconds "${STATUS_SECONDS:-30}")
[[ -z "${GPUS:-}" ]] || sweep+=(--gpus "$GPUS")
[[ -z "${JOBS:-}" ]] || sweep+=(--jobs "$JOBS")
further=()
dry=false
for word in "$@"; do
  if [[ "$word" == --dry-run ]]; then
    dry=true
    sweep+=(--dry-run)
  else
    further+=("$word")
  fi
done

# What hard_uniform and its like need: the demo's own policy answers the pool, and what it gets wrong is hard.
sample_demo() {
  local results="output/demo/difficulty"
  tools/demo.sh start
  compgen -G "$results/*_valid_*_results.json" >/dev/null || "$PYTHON" evaluate.py --model_path "$DEMO_MODEL" \
    --annotation_file "$DEMO_ANNOTATIONS/valid.json" --output_dir "$results" --batch_size 50 --max_new_tokens 64
  "$PYTHON" -m tools.sample_data --source "$DEMO_ANNOTATIONS/valid.json" --results "$results"/*_valid_*_results.json \
    --root "$(dirname "$DEMO_ANNOTATIONS")" --policies "${types[@]}" --sizes "${sizes[@]}" --seeds 0 --overwrite
}

if [[ "$demo" == true ]]; then
  echo "training on the demo world" >&2
  ANNOTATIONS="$DEMO_ANNOTATIONS"
  [[ ${#sizes[@]} -gt 0 ]] || sizes=("${demo_sizes[@]}")
  MAX_STEPS="${MAX_STEPS:-16}"
  SAVE_STEPS="${SAVE_STEPS:-4}"
  EVAL_SAMPLES="${EVAL_SAMPLES:-100}"
  EVAL_BATCH="${EVAL_BATCH:-50}"
  EVALUATE="${EVALUATE:-true}"
  demo_settings
  if [[ "$dry" == true ]]; then
    echo "a dry run samples no training sets: those it misses would be made first" >&2
    sweep+=(--data-later)
  else
    sample_demo
  fi
fi
MODEL="${MODEL:-checkpoints/restore_MIMIC_Think_phi4_ep1_lr6e-5}"
[[ -e "$MODEL" || "$dry" == true ]] || fail "the checkpoint $MODEL is not there; put it there, or name another MODEL"
[[ ${#sizes[@]} -gt 0 ]] || sizes=("${published_sizes[@]}")
[[ ${#learning_rates[@]} -gt 0 ]] || learning_rates=("${LEARNING_RATE:-6e-5}")
[[ ${#betas[@]} -gt 0 ]] || betas=("${BETA:-0.5}")
[[ "${EVALUATE:-false}" != true ]] || sweep+=(--summarize)

# Prints one run for tools/sweep.py, NUL-separated.
plan_run() {
  local short="${REWARDS//external_/}"
  local tag="${TYPE}_${SIZE}_lr${LEARNING_RATE}_g${GENERATIONS}_beta${BETA}_${short// /-}_seed${SEED}"
  OUTPUT_DIR="${SWEEP:-output/sweep}/$tag"
  DATASET="$(find_data "$TYPE" "$SIZE")"
  training_command
  printf '%s\0' @run "tag=$tag" "folder=$OUTPUT_DIR" "data=$DATASET" "policy=$TYPE" "size=$SIZE" "seed=$SEED" \
    "learning_rate=$LEARNING_RATE" "generations=$GENERATIONS" "beta=$BETA" "rewards=$REWARDS" \
    @train "${command[@]}" ${further[@]+"${further[@]}"}
  if [[ "${EVALUATE:-false}" == true ]]; then
    evaluation_command
    printf '%s\0' @evaluate "${evaluation[@]}"
  fi
}

plan() {
  unset RESUME # tools/sweep.py knows which runs to resume
  for REWARDS in "${reward_sets[@]}"; do
    read -r REWARDS <<<"$REWARDS" # without blanks around
    for LEARNING_RATE in "${learning_rates[@]}"; do
      for GENERATIONS in "${group_sizes[@]}"; do
        for BETA in "${betas[@]}"; do
          for SIZE in "${sizes[@]}"; do
            for TYPE in "${types[@]}"; do
              for SEED in "${seeds[@]}"; do
                plan_run
              done
            done
          done
        done
      done
    done
  done
}

exec "$PYTHON" -m tools.sweep "${sweep[@]}" < <(plan)

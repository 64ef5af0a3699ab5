#!/usr/bin/env bash
# One GRPO run. Every setting can be overridden from the environment; further flags go to swift.cli.rlhf as they are.
#
#   ./train.sh                                         published settings, on data/MIMIC-VQA-CoT
#   SIZE=2000 TYPE=uniform BETA=0.04 ./train.sh
#   NPROC=4 ./train.sh --deepspeed zero2               four processes
#   RESUME=true OUTPUT_DIR=output/... ./train.sh       go on with a run that was stopped
#
# Where the data set or the checkpoint is missing, or with DEMO=true, the demo world takes their place, at sizes a laptop
# can train.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$ROOT"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$PYTHON" ]] || PYTHON="$(command -v python3)"
export PYTHON

TYPE="${TYPE:-hard_uniform}"
SIZE="${SIZE:-1000}"
ANNOTATIONS="${ANNOTATIONS:-data/MIMIC-VQA-CoT/annotations}"
DATASET="${DATASET:-$ANNOTATIONS/$TYPE/$SIZE.json}"
MODEL="${MODEL:-checkpoints/restore_MIMIC_Think_phi4_ep1_lr6e-5}"
NPROC="${NPROC:-1}"
REWARDS="${REWARDS:-external_r1v_acc external_kg_jac}"
export FREEZE_NON_VISION_PARAMS="${FREEZE_NON_VISION_PARAMS:-1}"

alternative="$(dirname "$DATASET")/valid_sample_vqa_$(basename "$DATASET")"
if [[ "${DEMO:-false}" != true && -e "$MODEL" ]] && [[ -e "$DATASET" || -e "$alternative" ]]; then
  TAG="${TYPE}_${SIZE}"
else
  for missing in "$DATASET" "$MODEL"; do
    [[ "${DEMO:-false}" == true || -e "$missing" ]] || echo "$missing is not there: training on the demo world" >&2
  done
  tools/demo.sh start
  TAG="demo_train"
  DATASET="data/demo/annotations/valid.json"
  MODEL="output/demo/sft"
  LEARNING_RATE="${LEARNING_RATE:-5e-4}"
  BETA="${BETA:-0.03}"
  BATCH="${BATCH:-96}"
  MAX_COMPLETION_LENGTH="${MAX_COMPLETION_LENGTH:-64}"
  MAX_STEPS="${MAX_STEPS:-100}"
  DTYPE="${DTYPE:-float32}"
  DYNAMIC_SAMPLE="${DYNAMIC_SAMPLE:-false}"
  export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-5000}" # as in tools/demo.sh
fi

flags=(
  --model_kwargs '{"device_map": null}' --rlhf_type grpo --use_vllm false --save_only_model false
  --external_plugins plugin.py --model "$MODEL" --ref_model "${REF_MODEL:-$MODEL}" --dataset "$DATASET"
  --output_dir "${OUTPUT_DIR:-output/$TAG}" --do_train true
  --num_train_epochs "${EPOCHS:-1}" --max_steps "${MAX_STEPS:--1}"
  --per_device_train_batch_size "${BATCH:-8}" --per_device_eval_batch_size "${BATCH:-8}"
  --gradient_accumulation_steps "${ACCUMULATION:-1}" --num_generations "${GENERATIONS:-8}"
  --max_completion_length "${MAX_COMPLETION_LENGTH:-256}" --temperature "${TEMPERATURE:-0.9}"
  --learning_rate "${LEARNING_RATE:-6e-5}" --warmup_ratio "${WARMUP_RATIO:-0.1}"
  --beta "${BETA:-0.5}" --epsilon "${EPSILON:-0.2}"
  --dynamic_sample "${DYNAMIC_SAMPLE:-true}" --max_resample_times "${MAX_RESAMPLE_TIMES:-4}"
  --log_completions true --save_steps "${SAVE_STEPS:-1000}" --save_total_limit "${SAVE_TOTAL_LIMIT:-2}"
  --train_type dummy --torch_dtype "${DTYPE:-bfloat16}" --attn_impl "${ATTENTION:-auto}"
  --gradient_checkpointing_kwargs '{"use_reentrant": false}' --seed "${SEED:-42}"
)
[[ -z "${RESUME:-}" ]] || flags+=(--resume_from_checkpoint "$RESUME")
# shellcheck disable=SC2206  # reward names are words
flags+=(--reward_funcs $REWARDS)

launcher=("$PYTHON" -m)
[[ "$NPROC" == 1 ]] || launcher=("$PYTHON" -m torch.distributed.run --nproc_per_node "$NPROC" -m)
exec "${launcher[@]}" swift.cli.rlhf "${flags[@]}" "$@"

# shellcheck shell=bash
# What train.sh and train_loop.sh share: where things are, the settings of a run, the demo world where data are missing.
# Sourced; every setting comes from the environment. Relative paths are relative to the repository.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT" || exit 2
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$PYTHON" ]] || PYTHON="$(command -v python3)"
export PYTHON
export FREEZE_NON_VISION_PARAMS="${FREEZE_NON_VISION_PARAMS:-1}"

ANNOTATIONS="${ANNOTATIONS:-data/MIMIC-VQA-CoT/annotations}"
# shellcheck disable=SC2034  # for the scripts that source this
DEMO_ANNOTATIONS="data/demo/annotations"
DEMO_MODEL="output/demo/sft"

fail() {
  echo "error: $*" >&2
  exit 2
}

find_data() { # policy, size -> the training file under either name, else the name it should have
  local policy="$1" size="$2" folder
  local -A alias=([hard_sample]=hard_uniform [uniform_sample]=uniform)
  for folder in "$policy" "${alias[$policy]:-$policy}"; do
    for name in "$size.json" "valid_sample_vqa_$size.json"; do
      if [[ -e "$ANNOTATIONS/$folder/$name" ]]; then
        echo "$ANNOTATIONS/$folder/$name"
        return
      fi
    done
  done
  echo "$ANNOTATIONS/$policy/$size.json"
}

demo_settings() { # sizes that a laptop can train
  MODEL="$DEMO_MODEL"
  LEARNING_RATE="${LEARNING_RATE:-5e-4}"
  BETA="${BETA:-0.03}"
  BATCH="${BATCH:-96}"
  MAX_COMPLETION_LENGTH="${MAX_COMPLETION_LENGTH:-64}"
  DTYPE="${DTYPE:-float32}"
  DYNAMIC_SAMPLE="${DYNAMIC_SAMPLE:-false}"
  export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-5000}" # as in tools/demo.sh
}

default_batch() { # completions a device: 8 as published, or one group where G does not divide 8
  local generations="$1"
  echo "${BATCH:-$((8 % generations == 0 ? 8 : generations))}"
}

# Sets the array `command` from DATASET, OUTPUT_DIR, MODEL, LEARNING_RATE, GENERATIONS, BETA, REWARDS, SEED and the rest.
training_command() {
  local nproc="${NPROC:-1}" generations="${GENERATIONS:-8}" batch
  batch="$(default_batch "$generations")"
  command=("$PYTHON" -m)
  [[ "$nproc" == 1 ]] || command+=(torch.distributed.run --standalone --nproc_per_node "$nproc" -m)
  command+=(
    swift.cli.rlhf
    --model_kwargs '{"device_map": null}' --rlhf_type grpo --use_vllm false --save_only_model false
    --external_plugins plugin.py --model "$MODEL" --ref_model "${REF_MODEL:-$MODEL}" --dataset "$DATASET"
    --output_dir "$OUTPUT_DIR" --do_train true
    --num_train_epochs "${EPOCHS:-1}" --max_steps "${MAX_STEPS:--1}"
    --per_device_train_batch_size "$batch" --per_device_eval_batch_size "$batch"
    --gradient_accumulation_steps "${ACCUMULATION:-1}" --num_generations "$generations"
    --max_completion_length "${MAX_COMPLETION_LENGTH:-256}" --temperature "${TEMPERATURE:-0.9}"
    --learning_rate "${LEARNING_RATE:-6e-5}" --warmup_ratio "${WARMUP_RATIO:-0.1}"
    --beta "${BETA:-0.5}" --epsilon "${EPSILON:-0.2}"
    --dynamic_sample "${DYNAMIC_SAMPLE:-true}" --max_resample_times "${MAX_RESAMPLE_TIMES:-4}"
    --log_completions true --save_steps "${SAVE_STEPS:-1000}" --save_total_limit "${SAVE_TOTAL_LIMIT:-2}"
    --train_type dummy --torch_dtype "${DTYPE:-bfloat16}" --attn_impl "${ATTENTION:-auto}"
    --gradient_checkpointing_kwargs '{"use_reentrant": false}' --seed "${SEED:-42}"
  )
  [[ -z "${RESUME:-}" ]] || command+=(--resume_from_checkpoint "$RESUME")
  # shellcheck disable=SC2206  # reward names are words
  command+=(--reward_funcs ${REWARDS:-external_r1v_acc external_kg_jac})
}

# Sets the array `evaluation`: the questions of EVAL_FOLDER, answered by the run in OUTPUT_DIR.
evaluation_command() {
  evaluation=(
    "$PYTHON" evaluate.py --model_path "$OUTPUT_DIR" --output_dir "$OUTPUT_DIR/eval"
    --dataset_folder "${EVAL_FOLDER:-$(dirname "$ANNOTATIONS")}" --batch_size "${EVAL_BATCH:-16}"
    --max_new_tokens "${EVAL_NEW_TOKENS:-${MAX_COMPLETION_LENGTH:-256}}" --dynamic_hd "${DYNAMIC_HD:-4}"
    --use_flash_attention "${USE_FLASH_ATTENTION:-true}" --no_tqdm true
  )
  [[ -z "${EVAL_SAMPLES:-}" ]] || evaluation+=(--max_samples "$EVAL_SAMPLES")
}

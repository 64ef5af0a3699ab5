#!/usr/bin/env bash
# Evaluate a checkpoint, in two stages that share their flags:
#
#   ./evaluate.sh                                    sweep: the basic, compare and region questions
#   ANNOTATION_FILE=FILE IMG_ROOT=DIR ./evaluate.sh  sweep, then the questions of one file
#   STAGES="single" ANNOTATION_FILE=FILE ./evaluate.sh
#   ./evaluate.sh --max_samples 50                   further flags go to evaluate.py: see evaluate.py --help
#
# Without the data set in DATASET_FOLDER the demo world is evaluated, as `make demo` left it.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$PYTHON" ]] || PYTHON="$(command -v python3 || command -v python)"

DATASET_FOLDER="${DATASET_FOLDER:-$ROOT/data/MIMIC-VQA-CoT}"
MODEL_PATH="${MODEL_PATH:-}"
BASE_MODEL_PATH="${BASE_MODEL_PATH:-}"
ANNOTATION_FILE="${ANNOTATION_FILE:-}"
IMG_ROOT="${IMG_ROOT:-}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/result}"
BATCH_SIZE="${BATCH_SIZE:-16}"
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-256}"
DYNAMIC_HD="${DYNAMIC_HD:-4}"
USE_FLASH_ATTENTION="${USE_FLASH_ATTENTION:-true}"
CONTROL="${CONTROL:-none}"
STAGES="${STAGES:-sweep single}"

fail() {
  echo "error: $*" >&2
  exit 2
}

for stage in $STAGES; do
  [[ "$stage" == sweep || "$stage" == single ]] || fail "STAGES: '$stage' is unknown; name sweep, single or both"
done
wants() { [[ " $STAGES " == *" $1 "* ]]; }

if wants sweep && [[ ! -d "$DATASET_FOLDER" ]]; then
  [[ -d "$ROOT/data/demo" ]] ||
    fail "$DATASET_FOLDER is not there, nor is a demo world; put the data there, set DATASET_FOLDER, or run make demo"
  echo "$DATASET_FOLDER is not there: evaluating on the demo world" >&2
  DATASET_FOLDER="$ROOT/data/demo"
  MODEL_PATH="${MODEL_PATH:-$ROOT/output/demo/grpo}"
fi
MODEL_PATH="${MODEL_PATH:-$ROOT/checkpoints/restore_MIMIC_Think_phi4_ep1_lr6e-5}"

flags=(
  --model_path "$MODEL_PATH" --output_dir "$OUTPUT_DIR" --batch_size "$BATCH_SIZE"
  --max_new_tokens "$MAX_NEW_TOKENS" --dynamic_hd "$DYNAMIC_HD"
  --use_flash_attention "$USE_FLASH_ATTENTION" --control "$CONTROL"
)
[[ -z "$BASE_MODEL_PATH" ]] || flags+=(--base_model_path "$BASE_MODEL_PATH")

failed=()
run() {
  local stage="$1"
  shift
  "$PYTHON" "$ROOT/evaluate.py" "${flags[@]}" "$@" || failed+=("$stage")
}

if wants sweep; then
  run sweep --dataset_folder "$DATASET_FOLDER" "$@"
fi
if wants single && [[ -n "$ANNOTATION_FILE" ]]; then
  run single --annotation_file "$ANNOTATION_FILE" ${IMG_ROOT:+--img_root "$IMG_ROOT"} "$@"
elif [[ "$STAGES" == single ]]; then
  fail "STAGES=single evaluates one file; set ANNOTATION_FILE"
fi
[[ ${#failed[@]} -eq 0 ]] || fail "failed: ${failed[*]}"

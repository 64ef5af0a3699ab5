#!/usr/bin/env bash
# Evaluate a checkpoint, in stages that share their flags:
#
#   sweep    the basic, compare and region questions of DATASET_FOLDER (evaluate.py)
#   single   the questions of ANNOTATION_FILE, where it is set
#   tokens   the probability of each token (evaluate_token_prob.py): of ANNOTATION_FILE where it is set, else of the sweep
#   kg       what the reasoning invents and leaves out (get_kg_metric.sh)
#   report   report.html and the tables (tools.evaluation_report)
#
#   ./evaluate.sh                                    all of them
#   MODEL_PATH=output/grpo ./evaluate.sh             another checkpoint, or a run's newest
#   ANNOTATION_FILE=FILE IMG_ROOT=DIR ./evaluate.sh  the sweep, then the questions of one file
#   STAGES="sweep report" ./evaluate.sh              only these
#   ./evaluate.sh --max_samples 50                   further flags go to the first three stages: see evaluate.py --help
#
# kg and report take the files that the stages before them wrote in this call or found finished, those with tokens where
# there are both; without such stages, the *_results.json of OUTPUT_DIR. A stage that fails does not keep the others from
# running; the status then is 2. Started again, everything goes on where it was. Where no DATASET_FOLDER is named and
# data/MIMIC-VQA-CoT is missing, the demo world is evaluated, as `make demo` left it.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$PYTHON" ]] || PYTHON="$(command -v python3 || command -v python)"
export PYTHON PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

named_data="${DATASET_FOLDER:-}"
DATASET_FOLDER="${DATASET_FOLDER:-$ROOT/data/MIMIC-VQA-CoT}"
MODEL_PATH="${MODEL_PATH:-}"
BASE_MODEL_PATH="${BASE_MODEL_PATH:-}"
ANNOTATION_FILE="${ANNOTATION_FILE:-}"
IMG_ROOT="${IMG_ROOT:-}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/result}"
KG_DIR="${KG_DIR:-$OUTPUT_DIR/kg}"
REPORT_DIR="${REPORT_DIR:-$OUTPUT_DIR/report}"
BATCH_SIZE="${BATCH_SIZE:-auto}"
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-256}"
DYNAMIC_HD="${DYNAMIC_HD:-4}"
USE_FLASH_ATTENTION="${USE_FLASH_ATTENTION:-true}"
CONTROL="${CONTROL:-none}"
TOP_K_ALTERNATIVES="${TOP_K_ALTERNATIVES:-3}"
STAGES="${STAGES:-sweep single tokens kg report}"

fail() {
  echo "error: $*" >&2
  exit 2
}

for stage in $STAGES; do
  case "$stage" in
  sweep | single | tokens | kg | report) ;;
  *) fail "STAGES: '$stage' is unknown; name some of sweep, single, tokens, kg and report" ;;
  esac
done
wants() { [[ " $STAGES " == *" $1 "* ]]; }

[[ "$STAGES" != single || -n "$ANNOTATION_FILE" ]] || fail "STAGES=single evaluates one file; set ANNOTATION_FILE"
if [[ ! -d "$DATASET_FOLDER" ]] && { wants sweep || { wants tokens && [[ -z "$ANNOTATION_FILE" ]]; }; }; then
  [[ -z "$named_data" ]] || fail "DATASET_FOLDER: $named_data is not there"
  [[ -d "$ROOT/data/demo" ]] ||
    fail "$DATASET_FOLDER is not there, nor is a demo world; put the data there, set DATASET_FOLDER, or run make demo"
  echo "$DATASET_FOLDER is not there: evaluating on the demo world" >&2
  DATASET_FOLDER="$ROOT/data/demo"
  MODEL_PATH="${MODEL_PATH:-$ROOT/output/demo/grpo}"
fi
MODEL_PATH="${MODEL_PATH:-$ROOT/checkpoints/restore_MIMIC_Think_phi4_ep1_lr6e-5}"

written="$(mktemp)"
trap 'rm -f "$written"' EXIT

flags=(
  --model_path "$MODEL_PATH" --output_dir "$OUTPUT_DIR" --batch_size "$BATCH_SIZE"
  --max_new_tokens "$MAX_NEW_TOKENS" --dynamic_hd "$DYNAMIC_HD"
  --use_flash_attention "$USE_FLASH_ATTENTION" --control "$CONTROL" --list_results "$written"
)
[[ -z "$BASE_MODEL_PATH" ]] || flags+=(--base_model_path "$BASE_MODEL_PATH")
sweep=(--dataset_folder "$DATASET_FOLDER")
single=(--annotation_file "$ANNOTATION_FILE" ${IMG_ROOT:+--img_root "$IMG_ROOT"})

failed=()
run() { # stage, command
  local stage="$1"
  shift
  echo "== $stage"
  "$@" || failed+=("$stage")
}

if wants sweep; then
  run sweep "$PYTHON" "$ROOT/evaluate.py" "${flags[@]}" "${sweep[@]}" "$@"
fi
if wants single && [[ -n "$ANNOTATION_FILE" ]]; then
  run single "$PYTHON" "$ROOT/evaluate.py" "${flags[@]}" "${single[@]}" "$@"
fi
if wants tokens; then
  if [[ -n "$ANNOTATION_FILE" ]]; then questions=("${single[@]}"); else questions=("${sweep[@]}"); fi
  run tokens "$PYTHON" "$ROOT/evaluate_token_prob.py" "${flags[@]}" "${questions[@]}" \
    --top_k_alternatives "$TOP_K_ALTERNATIVES" "$@"
fi

# One file for each set of questions; a later one with tokens takes the place of the one without.
declare -A chosen=()
names=()
while IFS= read -r file; do
  name="${file%_results.json}"
  name="${name%_token_prob.json}"
  [[ -n "${chosen[$name]:-}" ]] || names+=("$name")
  chosen["$name"]="$file"
done <"$written"
files=()
for name in "${names[@]}"; do
  files+=("${chosen[$name]}")
done
if ! wants sweep && ! wants single && ! wants tokens; then
  shopt -s nullglob
  files=("$OUTPUT_DIR"/*_results.json)
  [[ ${#files[@]} -gt 0 ]] || fail "$OUTPUT_DIR holds no *_results.json; add the stage sweep, or set OUTPUT_DIR"
fi

if wants kg && [[ ${#files[@]} -gt 0 ]]; then
  for file in "${files[@]}"; do
    run kg env OUTPUT_DIR="$KG_DIR" "$ROOT/get_kg_metric.sh" "$file"
  done
fi
if wants report && [[ ${#files[@]} -gt 0 ]]; then
  run report "$PYTHON" -m tools.evaluation_report "${files[@]}" --output "$REPORT_DIR"
fi
[[ ${#failed[@]} -eq 0 ]] || fail "failed: ${failed[*]}"

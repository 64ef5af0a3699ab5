#!/usr/bin/env bash
# Evaluate a checkpoint, in stages that share their settings:
#
#   sweep    the basic, compare and region questions of DATASET_FOLDER (evaluate.py)
#   single   the questions of ANNOTATION_FILE, if it is set
#   tokens   the probability of each token (evaluate_token_prob.py), on ANNOTATION_FILE if it is set, else on the sweep
#   kg       facts that the reasoning invents and leaves out (get_kg_metric.sh)
#   report   report.html and the tables (tools.evaluation_report)
#
#   ./evaluate.sh                                    all stages
#   MODEL_PATH=output/grpo ./evaluate.sh             another checkpoint, or the newest one of a run
#   ANNOTATION_FILE=FILE IMG_ROOT=DIR ./evaluate.sh  the sweep, then the questions of one file
#   CONTROLS="blank shuffled" ./evaluate.sh          does it look: sweep and single again, with gray and other images
#   STAGES="sweep report" ./evaluate.sh              only these stages
#   ./evaluate.sh --max_samples 50                   flags go to the first three stages: see evaluate.py --help
#
# The stages kg and report take the result files of the earlier stages, and prefer those with tokens. Without an earlier
# stage they take every *_results.json of OUTPUT_DIR. The controls of a result file go to the report alone. If a stage
# fails, the others still run, and the status is 2. The same command again resumes unfinished work. If you do not set
# DATASET_FOLDER and data/MIMIC-VQA-CoT does not exist, the demo world of `make demo` is evaluated. docs/sweeps.md lists
# the settings.
# shellcheck source=tools/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/tools/launch.sh"

named_data="${DATASET_FOLDER:-}"
DATASET_FOLDER="${DATASET_FOLDER:-$ROOT/data/MIMIC-VQA-CoT}"
MODEL_PATH="${MODEL_PATH:-}"
BASE_MODEL_PATH="${BASE_MODEL_PATH:-}"
ANNOTATION_FILE="${ANNOTATION_FILE:-}"
IMG_ROOT="${IMG_ROOT:-}"
OUTPUT_DIR="${OUTPUT_DIR:-$ROOT/result}"
KG_DIR="${KG_DIR:-$OUTPUT_DIR/kg}"
REPORT_DIR="${REPORT_DIR:-$OUTPUT_DIR/report}"
keep_from_flags DATASET_FOLDER MODEL_PATH BASE_MODEL_PATH ANNOTATION_FILE IMG_ROOT OUTPUT_DIR KG_DIR REPORT_DIR
BATCH_SIZE="${BATCH_SIZE:-auto}"
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-256}"
DYNAMIC_HD="${DYNAMIC_HD:-4}"
USE_FLASH_ATTENTION="${USE_FLASH_ATTENTION:-true}"
CONTROL="${CONTROL:-none}"
CONTROLS="${CONTROLS:-}"
TOP_K_ALTERNATIVES="${TOP_K_ALTERNATIVES:-3}"
STAGES="${STAGES:-sweep single tokens kg report}"

for stage in $STAGES; do
  case "$stage" in
  sweep | single | tokens | kg | report) ;;
  *) fail "STAGES: '$stage' is unknown; name one or more of sweep, single, tokens, kg and report" ;;
  esac
done
for control in $CONTROLS; do
  case "$control" in
  blank | shuffled) ;;
  *) fail "CONTROLS: '$control' is unknown; name blank, shuffled or both" ;;
  esac
done
[[ -z "$CONTROLS" || "$CONTROL" == none ]] ||
  fail "CONTROL=$CONTROL leaves out the real images, which CONTROLS compares with; set only one of the two"

wants() { [[ " $STAGES " == *" $1 "* ]]; }

[[ -z "$CONTROLS" ]] || wants sweep || wants single || ! wants tokens ||
  fail "CONTROLS=\"$CONTROLS\" asks the questions of the stages sweep and single; add one of them to STAGES"
[[ "$STAGES" != single || -n "$ANNOTATION_FILE" ]] || fail "STAGES=single evaluates one file; set ANNOTATION_FILE"
if [[ ! -d "$DATASET_FOLDER" ]] && { wants sweep || { wants tokens && [[ -z "$ANNOTATION_FILE" ]]; }; }; then
  [[ -z "$named_data" ]] || fail "DATASET_FOLDER: $named_data does not exist; correct it"
  [[ -d "$ROOT/data/demo" ]] ||
    fail "$DATASET_FOLDER does not exist, nor does a demo world; put the data there, set DATASET_FOLDER, or run make demo"
  echo "$DATASET_FOLDER does not exist: evaluating on the demo world" >&2
  DATASET_FOLDER="$ROOT/data/demo"
  MODEL_PATH="${MODEL_PATH:-$ROOT/output/demo/grpo}"
fi
MODEL_PATH="${MODEL_PATH:-$ROOT/checkpoints/restore_MIMIC_Think_phi4_ep1_lr6e-5}"

written="$(mktemp)"
controlled="$(mktemp)"
trap 'rm -f "$written" "$controlled"' EXIT

flags=(
  --model_path "$MODEL_PATH" --output_dir "$OUTPUT_DIR" --batch_size "$BATCH_SIZE"
  --max_new_tokens "$MAX_NEW_TOKENS" --dynamic_hd "$DYNAMIC_HD"
  --use_flash_attention "$USE_FLASH_ATTENTION"
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

answer() { # control, list of result files, words after a stage's name, flags
  local images=(--control "$1" --list_results "$2") words="$3"
  shift 3
  if wants sweep; then
    run "sweep$words" "$PYTHON" "$ROOT/evaluate.py" "${flags[@]}" "${images[@]}" "${sweep[@]}" "$@"
  fi
  if wants single && [[ -n "$ANNOTATION_FILE" ]]; then
    run "single$words" "$PYTHON" "$ROOT/evaluate.py" "${flags[@]}" "${images[@]}" "${single[@]}" "$@"
  fi
}

answer "$CONTROL" "$written" "" "$@"
for control in $CONTROLS; do
  answer "$control" "$controlled" " ($control)" "$@"
done
if wants tokens; then
  if [[ -n "$ANNOTATION_FILE" ]]; then questions=("${single[@]}"); else questions=("${sweep[@]}"); fi
  run tokens "$PYTHON" "$ROOT/evaluate_token_prob.py" "${flags[@]}" --control "$CONTROL" --list_results "$written" \
    "${questions[@]}" --top_k_alternatives "$TOP_K_ALTERNATIVES" "$@"
fi

# One file per set of questions: a file with tokens replaces the one without. In the lists a NUL byte ends each path.
declare -A chosen=()
names=()
while IFS= read -r -d '' file; do
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
  for file in "$OUTPUT_DIR"/*_results.json; do
    if [[ "$file" == *_@(blank|shuffled)_results.json && -e "${file%_*_results.json}_results.json" ]]; then
      printf '%s\0' "$file" >>"$controlled"
    else
      files+=("$file")
    fi
  done
  [[ ${#files[@]} -gt 0 ]] || fail "$OUTPUT_DIR holds no *_results.json; add the stage sweep, or set OUTPUT_DIR"
fi

if wants kg && [[ ${#files[@]} -gt 0 ]]; then
  for file in "${files[@]}"; do
    run kg env OUTPUT_DIR="$KG_DIR" "$ROOT/get_kg_metric.sh" "$file"
  done
fi
if wants report && [[ ${#files[@]} -gt 0 ]]; then
  mapfile -d '' -t controls < <(sort -zu "$controlled")
  [[ ${#controls[@]} -eq 0 ]] || controls=(--control "${controls[@]}")
  run report "$PYTHON" -m tools.evaluation_report "${files[@]}" --output "$REPORT_DIR" "${controls[@]}"
fi
[[ ${#failed[@]} -eq 0 ]] || fail "failed: ${failed[*]}"

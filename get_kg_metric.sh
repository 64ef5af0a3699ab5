#!/usr/bin/env bash
# Audit what a policy's reasoning invents and leaves out, in three steps: graphs of the references (tools/00_GT_kg.py),
# graphs of the radiology reports (tools/01_MIMIC_kg.py, where REPORTS is set), graphs of the generated texts and the
# scores (tools/02_hall_kg.py).
#
#   ./get_kg_metric.sh FILE_results.json               one result file of evaluate.py
#   ./get_kg_metric.sh DIR                             every *_results.json in a folder, each by itself
#   TOGETHER=true ./get_kg_metric.sh DIR               all of them as one: the basic, compare and region questions of a run
#   REPORTS=data/mimic-cxr/files ./get_kg_metric.sh FILE_results.json
#   ./get_kg_metric.sh FILE_results.json --overwrite   further flags go to every step: --overwrite, --no-resume
#
# The path may also be set as RESULTS; without one it is the folder result. OUTPUT_DIR takes the graphs and scores (by
# default a folder kg beside the results), KG_TEXT=whole reads whole generated texts in place of their <think> part,
# REXKG_EXTRACTOR and REXKG_TERMS choose the extractor. Run again, it keeps what is there and goes on where it was cut.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$PYTHON" ]] || PYTHON="$(command -v python3 || command -v python)"

RESULTS="${RESULTS:-$ROOT/result}"
if [[ $# -gt 0 && "$1" != -* ]]; then
  RESULTS="$1"
  shift
fi
REPORTS="${REPORTS:-}"
TOGETHER="${TOGETHER:-false}"
OUTPUT_DIR="${OUTPUT_DIR:-}"

fail() {
  echo "error: $*" >&2
  exit 2
}

files=("$RESULTS")
if [[ -d "$RESULTS" ]]; then
  shopt -s nullglob
  files=("$RESULTS"/*_results.json)
  [[ ${#files[@]} -gt 0 ]] || fail "$RESULTS holds no *_results.json; run evaluate.sh first, or name a file or a folder"
fi

flags=("$@")
[[ -z "$OUTPUT_DIR" ]] || flags+=(--output_dir "$OUTPUT_DIR")

audit() {
  local file graphs=()
  echo "== $*"
  "$PYTHON" "$ROOT/tools/00_GT_kg.py" --results "$@" "${flags[@]}" || return
  if [[ -n "$REPORTS" ]]; then
    "$PYTHON" "$ROOT/tools/01_MIMIC_kg.py" --reports "$REPORTS" --results "$@" "${flags[@]}" || return
    graphs=(--report_graphs)
    for file in "$@"; do
      graphs+=("${OUTPUT_DIR:-$(dirname "$file")/kg}/$(basename "$file" .json)_mimic_kg.json")
    done
  fi
  "$PYTHON" "$ROOT/tools/02_hall_kg.py" --results "$@" "${graphs[@]}" --kg_text "${KG_TEXT:-think}" "${flags[@]}"
}

failed=()
if [[ "$TOGETHER" == true ]]; then
  audit "${files[@]}" || failed+=("$RESULTS")
else
  for file in "${files[@]}"; do
    audit "$file" || failed+=("$file")
  done
fi
[[ ${#failed[@]} -eq 0 ]] || fail "failed: ${failed[*]}"

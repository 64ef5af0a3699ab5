#!/usr/bin/env bash
# Audit of the facts that a policy's reasoning invents and leaves out, in three steps: graphs of the references
# (tools/00_GT_kg.py), graphs of the radiology reports (tools/01_MIMIC_kg.py, if REPORTS is set), graphs of the generated
# texts and the scores (tools/02_hall_kg.py).
#
#   ./get_kg_metric.sh FILE_results.json               one result file of evaluate.py
#   ./get_kg_metric.sh DIR                             every *_results.json of a folder, each by itself
#   TOGETHER=true ./get_kg_metric.sh DIR               all of them as one run
#   REPORTS=data/mimic-cxr/files ./get_kg_metric.sh FILE_results.json
#   ./get_kg_metric.sh FILE_results.json --overwrite   flags go to every step: --overwrite, --no-resume
#
# The path may also be set as RESULTS; the default is the folder result. Graphs and scores go to OUTPUT_DIR (default: a
# folder kg beside the results). KG_TEXT=whole reads whole generated texts, not only their <think> part. REXKG_EXTRACTOR
# and REXKG_TERMS choose the extractor. The same command again keeps finished graphs and resumes unfinished ones.
# docs/sweeps.md lists the settings.
# shellcheck source=tools/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/tools/launch.sh"

RESULTS="${RESULTS:-$ROOT/result}"
if [[ $# -gt 0 && "$1" != -* ]]; then
  RESULTS="$1"
  shift
fi
REPORTS="${REPORTS:-}"
TOGETHER="${TOGETHER:-false}"
OUTPUT_DIR="${OUTPUT_DIR:-}"
keep_from_flags RESULTS REPORTS OUTPUT_DIR

files=("$RESULTS")
if [[ -d "$RESULTS" ]]; then
  shopt -s nullglob
  files=("$RESULTS"/*_results.json)
  [[ ${#files[@]} -gt 0 ]] || fail "$RESULTS holds no *_results.json; run evaluate.sh first, or name a file or a folder"
fi

flags=("$@")
[[ -z "$OUTPUT_DIR" ]] || flags+=(--output_dir "$OUTPUT_DIR")

audit() {
  local file folder name graphs=()
  echo "== $*"
  "$PYTHON" "$ROOT/tools/00_GT_kg.py" --results "$@" "${flags[@]}" || return
  if [[ -n "$REPORTS" ]]; then
    "$PYTHON" "$ROOT/tools/01_MIMIC_kg.py" --reports "$REPORTS" --results "$@" "${flags[@]}" || return
    graphs=(--report_graphs)
    for file in "$@"; do
      folder="." name="${file##*/}"
      [[ "$file" != */* ]] || folder="${file%/*}"
      graphs+=("${OUTPUT_DIR:-$folder/kg}/${name%.json}_mimic_kg.json")
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

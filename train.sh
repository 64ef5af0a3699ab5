#!/usr/bin/env bash
# One GRPO run. Every setting can be overridden from the environment; further flags go to swift.cli.rlhf as they are.
#
#   ./train.sh                                         published settings, on data/MIMIC-VQA-CoT
#   SIZE=2000 TYPE=uniform BETA=0.04 ./train.sh
#   NPROC=4 ./train.sh --deepspeed zero2               four processes
#   RESUME=true OUTPUT_DIR=output/... ./train.sh       go on with a run that was stopped
#
# TYPE, SIZE, ANNOTATIONS or DATASET, MODEL, REF_MODEL, OUTPUT_DIR, NPROC, SEED, RESUME, REWARDS, and the settings in
# tools/launch.sh (training_command). train_loop.sh does many runs.
#
# Where none of DATASET, ANNOTATIONS and MODEL is named and data/MIMIC-VQA-CoT is missing, or with DEMO=true, the run is on
# the demo world, at sizes a laptop can train.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
demo="${DEMO:-false}"
[[ -n "${DATASET:-}${ANNOTATIONS:-}${MODEL:-}" || -d "$HERE/data/MIMIC-VQA-CoT/annotations" ]] || demo=true
# shellcheck source=tools/launch.sh
source "$HERE/tools/launch.sh"

TYPE="${TYPE:-hard_uniform}"
SIZE="${SIZE:-1000}"
DATASET="${DATASET:-$(find_data "$TYPE" "$SIZE")}"
MODEL="${MODEL:-checkpoints/restore_MIMIC_Think_phi4_ep1_lr6e-5}"

if [[ "$demo" == true ]]; then
  [[ -n "${DEMO:-}" ]] || echo "data/MIMIC-VQA-CoT is not there: training on the demo world" >&2
  tools/demo.sh start
  TAG="demo_train"
  DATASET="$DEMO_ANNOTATIONS/valid.json"
  MAX_STEPS="${MAX_STEPS:-100}"
  demo_settings
else
  for needed in "$DATASET" "$MODEL"; do
    [[ -e "$needed" ]] || fail "$needed is not there; put it there, or name DATASET and MODEL"
  done
  TAG="${TYPE}_${SIZE}"
fi
OUTPUT_DIR="${OUTPUT_DIR:-output/$TAG}"

training_command
exec "${command[@]}" "$@"

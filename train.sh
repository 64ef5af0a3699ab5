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
# Where the data set or the checkpoint is missing, or with DEMO=true, the demo world takes their place, at sizes a laptop
# can train.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=tools/launch.sh
source "$HERE/tools/launch.sh"

TYPE="${TYPE:-hard_uniform}"
SIZE="${SIZE:-1000}"
DATASET="${DATASET:-$(find_data "$TYPE" "$SIZE")}"
MODEL="${MODEL:-checkpoints/restore_MIMIC_Think_phi4_ep1_lr6e-5}"

alternative="$(dirname "$DATASET")/valid_sample_vqa_$(basename "$DATASET")"
if [[ "${DEMO:-false}" != true && -e "$MODEL" ]] && [[ -e "$DATASET" || -e "$alternative" ]]; then
  TAG="${TYPE}_${SIZE}"
else
  for missing in "$DATASET" "$MODEL"; do
    [[ "${DEMO:-false}" == true || -e "$missing" ]] || echo "$missing is not there: training on the demo world" >&2
  done
  tools/demo.sh start
  TAG="demo_train"
  DATASET="$DEMO_ANNOTATIONS/valid.json"
  MAX_STEPS="${MAX_STEPS:-100}"
  demo_settings
fi
OUTPUT_DIR="${OUTPUT_DIR:-output/$TAG}"

training_command
exec "${command[@]}" "$@"

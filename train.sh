#!/usr/bin/env bash
# One GRPO run. Every setting is an environment variable; flags go to swift.cli.rlhf unchanged.
#
#   ./train.sh                                         published settings, on data/MIMIC-VQA-CoT
#   SIZE=2000 TYPE=uniform BETA=0.04 ./train.sh        another training set, a weaker KL term
#   DATASET=my.json MODEL=my_checkpoint ./train.sh     your own data and policy
#   NPROC=4 ./train.sh --deepspeed zero2               four processes
#   RESUME=true OUTPUT_DIR=output/... ./train.sh       resume a run that was stopped
#   DEMO=true ./train.sh                               the demo world, at sizes that a laptop can train
#   ./train.sh --help                                  all settings, as in docs/sweeps.md
#
# If you name none of DATASET, ANNOTATIONS and MODEL and data/MIMIC-VQA-CoT does not exist, the demo world is used.
# Paths are relative to the repository. train_loop.sh does many runs.
# shellcheck source=tools/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/tools/launch.sh"

cd "$ROOT"
exec "$PYTHON" -m tools.train "$@"

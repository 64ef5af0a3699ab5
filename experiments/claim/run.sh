#!/usr/bin/env bash
# The whole experiment: worlds, warm start, training sets, GRPO runs, SFT baselines, measurement, analysis.
#
#   experiments/claim/run.sh                   everything; what is done already is skipped
#   experiments/claim/run.sh --dry-run         the commands
#   experiments/claim/run.sh --stages sweeps   one stage, or several
#   JOBS=4 experiments/claim/run.sh            four runs side by side, which share the cores (default: 2)
#
# plan.json decides everything. After Ctrl-C or a kill, start the same command again.
# shellcheck source=tools/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/launch.sh"

cd "$ROOT"
exec "$PYTHON" -m experiments.claim.run "$@"

#!/usr/bin/env bash
# A sweep: one GRPO run for every size, sampling policy, seed, learning rate, G, beta and set of rewards.
#
#   ./train_loop.sh                                                the published sweep, on data/MIMIC-VQA-CoT
#   ./train_loop.sh --dry-run                                      the plan, and what is done already
#   SIZES="500 1000" TYPES="uniform hard_uniform" SEEDS="0 1 2" EVALUATE=true ./train_loop.sh
#   REWARD_SETS="external_r1v_acc external_kg_jac, external_r1v_acc" ./train_loop.sh    with the accuracy-only baseline
#   GPUS="0 1 2 3" ./train_loop.sh                                 four runs side by side ("0,1 2,3": two GPUs per run)
#   ./train_loop.sh --help                                         all settings, as in docs/sweeps.md
#   python -m tools.summarize output/sweep                         the table and plots
#
# Runs go to output/sweep/<tag>/, logs to logs/<time>_<tag>.log. Finished runs are skipped and broken ones resumed: after
# Ctrl-C or a kill, start the same command again. Runs that failed, or whose data are missing, are listed at the end, and
# the exit status is then not 0. Further flags go to swift.cli.rlhf unchanged.
#
# If you name neither ANNOTATIONS nor MODEL and data/MIMIC-VQA-CoT does not exist, or with DEMO=true, the sweep runs on
# the demo world, with training sets sampled from its pool.
# shellcheck source=tools/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/tools/launch.sh"

cd "$ROOT"
exec "$PYTHON" -m tools.sweep "$@"

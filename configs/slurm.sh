#!/usr/bin/env bash
# One GRPO run on several nodes under SLURM, one launcher per node. Submit it from the repository, on a shared disk.
#
#   MODEL=checkpoints/NAME DATASET=my.json sbatch configs/slurm.sh                     FSDP2 on two nodes
#   MODEL=... DATASET=... CONFIG=configs/zero2.yaml sbatch --nodes 4 configs/slurm.sh --max_completion_length 128
#
# Flags go to swift.cli.rlhf. Submitting the same command again resumes from the newest checkpoint.
#SBATCH --job-name=chex-grpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --output=logs/slurm-%j.log
set -euo pipefail

PYTHON="${PYTHON:-.venv/bin/python}"
CONFIG="${CONFIG:-configs/fsdp2.yaml}"
OUTPUT_DIR="${OUTPUT_DIR:-output/slurm}"
: "${MODEL:?names the folder of the checkpoint to train}" "${DATASET:?names the training file}"
export FREEZE_NON_VISION_PARAMS="${FREEZE_NON_VISION_PARAMS:-1}"

GPUS="${SLURM_GPUS_ON_NODE:-1}"
read -r HEAD < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # a pipe to head could end scontrol, and the job with it
PORT=$((10000 + SLURM_JOB_ID % 20000)) # below those that the system hands out by itself

# The number of a node is known on the node alone, hence the shell there.
# shellcheck disable=SC2016
exec srun --kill-on-bad-exit=1 bash -c 'exec "$0" -m accelerate.commands.launch --machine_rank "$SLURM_NODEID" "$@"' \
  "$PYTHON" --config_file "$CONFIG" --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * GPUS))" \
  --main_process_ip "$HEAD" --main_process_port "$PORT" \
  -m swift.cli.rlhf --model "$MODEL" --dataset "$DATASET" --output_dir "$OUTPUT_DIR" --resume_from_checkpoint true \
  --external_plugins plugin.py --reward_funcs external_r1v_acc external_kg_jac "$@"

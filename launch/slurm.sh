#!/bin/bash
# Several machines under Slurm, one launcher on each: FSDP2 over all of their GPUs.
#
#   sbatch --nodes=2 launch/slurm.sh recipes/deepseek-r1-distill-qwen-1.5b/mask_safe.yaml \
#       trainer.gradient_accumulation_steps=12
#
# A recipe's batch depends on the number of processes: its comments say what 16 GPUs need, and
# --check prints what comes out. Submit from the root of the repository with the environment active.
# Every machine must see the repository, the run directory and the hub's cache. After a time limit
# submit the same line with --resume. LAUNCH names another launch file, GPUS the GPUs of a machine.
#SBATCH --job-name=rlvr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --output=slurm-%j.log
set -euo pipefail

export GPUS=${GPUS:-8} LAUNCH=${LAUNCH:-launch/fsdp2.yaml}
MAIN=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export MAIN
export PORT=$((20000 + SLURM_JOB_ID % 20000)) # jobs on one machine must not meet

# In single quotes: SLURM_NODEID is another on every machine.
srun bash -c 'accelerate launch --config_file "$LAUNCH" \
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * GPUS)) \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN" --main_process_port "$PORT" \
    -m rlvr.train "$@"' rlvr "$@"

#!/bin/bash
# PyTorch under SLURM: sbatch slurm_torch.sh photographs/ runs/flowers
#SBATCH --job-name=metaformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
# Two minutes before the end each process gets SIGTERM, and the run writes a checkpoint.
#SBATCH --signal=TERM@120
# A job that was preempted is started again, and the run goes on.
#SBATCH --requeue
set -eu
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export KERAS_BACKEND=torch
srun bash -c 'exec torchrun --nnodes="$SLURM_NNODES" --node-rank="$SLURM_NODEID" \
    --master-addr="$0" --master-port=29500 --nproc-per-node="$SLURM_GPUS_ON_NODE" \
    --no-python keras-metaformer train "$1" --output "$2" --distributed' \
    "$HEAD" "$1" "$2"

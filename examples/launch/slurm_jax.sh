#!/bin/bash
# JAX under SLURM, which it knows: sbatch slurm_jax.sh photographs/ runs/flowers
#SBATCH --job-name=metaformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -eu
export KERAS_BACKEND=jax
srun keras-metaformer train "$1" --output "$2" --distributed --workers 7

#!/bin/bash
# Several machines under SLURM, with a launch configuration of this folder (multi_gpu, fsdp, zero2, ...):
#     sbatch --nodes 4 $(hf-face recipes accelerate/slurm.sh) multi_gpu RECIPE --shard_head true
# All of them need the data and a shared output_dir. A job that SLURM starts again goes on from the last checkpoint.
#SBATCH --job-name hf_face
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --exclusive
#SBATCH --requeue
set -euo pipefail

LAUNCH=$(hf-face recipes "accelerate/$1")
read -r FIRST_NODE < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
PROCESSES=$((SLURM_JOB_NUM_NODES * SLURM_GPUS_ON_NODE))
export LAUNCH FIRST_NODE PROCESSES

srun bash -c 'accelerate launch --config_file "$LAUNCH" --num_machines "$SLURM_JOB_NUM_NODES" \
    --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" --rdzv_backend c10d \
    --main_process_ip "$FIRST_NODE" --main_process_port "${PORT:-29500}" \
    -m hf_face.train "$@" --resume_from_checkpoint auto' bash "${@:2}"

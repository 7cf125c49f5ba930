#!/bin/bash
# Several machines, each started with this same command; they meet at FIRST_NODE, one of them. DDP, bfloat16:
#     FIRST_NODE=node1 NODES=4 bash $(hf-face recipes accelerate/torchrun.sh) RECIPE --shard_head true
# All of them need the data and a shared output_dir. Where one fails, the others stop; the same command goes on.
# For FSDP and DeepSpeed, use `accelerate launch` as slurm.sh does.
set -euo pipefail

torchrun --nnodes "$NODES" --nproc_per_node "${GPUS_PER_NODE:-8}" \
    --rdzv_backend c10d --rdzv_endpoint "$FIRST_NODE:${PORT:-29500}" --rdzv_id "${RUN_ID:-hf_face}" \
    -m hf_face.train "$@" --bf16 true --resume_from_checkpoint auto

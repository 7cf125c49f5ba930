"""
The bytes that a rank sends in a step of training; started by `test_communication.py`.

    torchrun --nproc_per_node 2 communication.py FOLDER NUM_IDENTITIES EMBEDDING_SIZE BATCH_SIZE
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_recipe import TINY_VIT
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig

from hf_face import FaceRecognitionConfig, FaceRecognitionModel
from hf_face.data import load_orl
from hf_face.training import FaceTrainer, FaceTrainingArguments

# How often a rank sends its share, (R - 1) / R, of the larger of a collective's tensors, in a ring of R ranks.
SENT = {"allreduce_": 2, "broadcast_": 2, "_allgather_base_": 1, "_reduce_scatter_base_": 1}


class SentBytes(TorchDispatchMode):
    """Counts what collectives send, by the size of their tensors."""

    def __init__(self):
        super().__init__()
        self.by_type: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            largest = max(tensors, key=lambda tensor: tensor.nbytes)
            share = (dist.get_world_size() - 1) / dist.get_world_size()
            times = SENT[function._schema.name.removeprefix("c10d::")]
            self.by_type[str(largest.dtype).removeprefix("torch.")] += round(times * largest.nbytes * share)
        return function(*args, **(kwargs or {}))


class CountingTrainer(FaceTrainer):
    def training_step(self, *args):
        with SentBytes() as self.sent:  # of the last step
            return super().training_step(*args)

    def _get_grad_norm(self, *args, **kwargs):  # where the ranks agree whether to go on
        with SentBytes() as self.agreeing:
            return super()._get_grad_norm(*args, **kwargs)


def sent_bytes(folder: str, num_identities: int, embedding_size: int, batch_size: int, shard_head: bool) -> dict:
    args = FaceTrainingArguments(
        folder,
        shard_head=shard_head,
        per_device_train_batch_size=batch_size,
        max_steps=2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    backbone = AutoConfig.for_model(**{**TINY_VIT, "embedding_size": embedding_size})
    config = FaceRecognitionConfig(backbone_config=backbone, num_identities=num_identities, margin="cosface")
    model = FaceRecognitionModel(config)
    num_weights = sum(parameter.numel() for parameter in model.backbone.parameters())
    trainer = CountingTrainer(model, args, load_orl(), augmentation=None)
    trainer.train()
    return {"sent": dict(trainer.sent.by_type), "agreeing": dict(trainer.agreeing.by_type), "backbone": num_weights}


if __name__ == "__main__":
    folder, *sizes = sys.argv[1:]
    found = {kind: sent_bytes(folder, *map(int, sizes), kind == "split") for kind in ("replicated", "split")}
    if os.environ["RANK"] == "0":
        Path(folder, "sent.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()

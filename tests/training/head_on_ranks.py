"""Trainings with a head that is whole, split or sampled; started by `test_head_on_ranks.py` on one rank and on two.

torchrun --standalone --nproc_per_node 2 head_on_ranks.py RUNS_AS_JSON
"""

import json
import math
import sys

import torch
from tiny_recipe import TINY_VIT
from transformers import AutoConfig

from hf_face import FaceRecognitionConfig, FaceRecognitionModel
from hf_face.data import load_orl
from hf_face.training import FaceTrainer, FaceTrainingArguments

NUM_IDENTITIES, BATCH_SIZE = 40, 16
SETTINGS = {
    "max_steps": 8,
    "save_strategy": "steps",
    "save_steps": 4,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "head_learning_rate": 0.01,
    "head_weight_decay": 0.1,
    "max_grad_norm": 5.0,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


class WatchedTrainer(FaceTrainer):
    """Fails when a device is handed more class centers than are its rank's."""

    def _move_model_to_device(self, model, device):
        num_parts = self.args.world_size if self.args.shard_head else 1
        assert len(model.head.weight) <= math.ceil(NUM_IDENTITIES / num_parts)
        super()._move_model_to_device(model, device)


def train(folder: str, resume_from: str | None = None, built_split: bool = False, **settings) -> None:
    """Trains from the same start to `folder`/checkpoint-8, each step on the same images on any number of ranks."""
    args = FaceTrainingArguments(folder, **{**SETTINGS, **settings})
    args.per_device_train_batch_size = BATCH_SIZE // args.world_size
    torch.manual_seed(0)
    config = FaceRecognitionConfig(
        backbone_config=AutoConfig.for_model(**TINY_VIT), num_identities=NUM_IDENTITIES, margin="adaface"
    )
    model = FaceRecognitionModel(config, head_group=args.head_group if built_split else None)
    trainer = WatchedTrainer(model, args, load_orl(), augmentation=None)
    trainer.train(resume_from_checkpoint=resume_from)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for run in json.loads(sys.argv[1]):
        train(**run)
    torch.distributed.barrier()  # a rank that ends while another still talks to it can abort
    torch.distributed.destroy_process_group()

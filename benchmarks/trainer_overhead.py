"""
Overhead of FaceTrainer over a bare PyTorch loop with the same model, batches, augmentation and optimizer.

    python benchmarks/trainer_overhead.py

Both run alternately for several rounds. The result is the ratio of the median seconds per step.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch.utils.data import DataLoader
from transformers import HfArgumentParser, TrainerCallback

from hf_face import FaceRecognitionConfig, FaceRecognitionModel
from hf_face.data import BatchNormalize, FaceCollator, FaceDataset, build_augmentation, load_orl
from hf_face.training import FaceTrainer, FaceTrainingArguments


@dataclass
class BenchmarkArguments:
    architecture: str = field(default="resnet10t", metadata={"help": "timm model to train."})
    image_size: int = field(default=64, metadata={"help": "Side of the crops, in pixels."})
    batch_size: int = field(default=32, metadata={"help": "Images a step."})
    steps: int = field(default=30, metadata={"help": "Steps a round, of which the first five are not counted."})
    rounds: int = field(default=3, metadata={"help": "Rounds of each, in turns."})


WARM_UP_STEPS = 5


class StepTimes(TrainerCallback):
    """Records when each step ends."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def build_model(args: BenchmarkArguments) -> FaceRecognitionModel:
    torch.manual_seed(0)
    backbone = {
        "model_type": "timm_face",
        "architecture": args.architecture,
        "embedding_size": 128,
        "image_size": args.image_size,
    }
    return FaceRecognitionModel(FaceRecognitionConfig(backbone_config=backbone, num_identities=40, margin="cosface"))


def bare_loop(args: BenchmarkArguments, dataset) -> list[float]:
    """Train with a hand-written loop, and return the end time of each step."""
    model = build_model(args).train()
    loader = DataLoader(
        FaceDataset(dataset), args.batch_size, shuffle=True, drop_last=True, collate_fn=FaceCollator(args.image_size)
    )
    augment, normalize = build_augmentation("flip", args.image_size), BatchNormalize([0.5] * 3, [0.5] * 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ends = []
    while len(ends) < args.steps:
        for batch in loader:
            loss = model(normalize(augment(batch["pixel_values"])), labels=batch["labels"]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ends.append(time.perf_counter())
    return ends[: args.steps]


def face_trainer(args: BenchmarkArguments, dataset) -> list[float]:
    """Train with FaceTrainer, and return the end time of each step."""
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        settings = FaceTrainingArguments(
            folder,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
        )
        FaceTrainer(build_model(args), settings, dataset, callbacks=[times]).train()
    return times.ends


def main():
    (args,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses()
    dataset = load_orl()
    seconds = {bare_loop: [], face_trainer: []}
    for _ in range(args.rounds):
        for run, found in seconds.items():
            ends = run(args, dataset)[WARM_UP_STEPS - 1 :]
            found += [stop - start for start, stop in pairwise(ends)]
    bare, ours = (statistics.median(found) for found in seconds.values())
    print(f"bare loop {1000 * bare:.1f} ms a step, FaceTrainer {1000 * ours:.1f} ms: ratio {ours / bare:.3f}")


if __name__ == "__main__":
    main()

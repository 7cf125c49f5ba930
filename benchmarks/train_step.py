"""
Images a second of a training, from encoded crops to updated weights, in three ways: FaceTrainer, a bare loop tuned by
hand, and a loop as most projects write it.

    python benchmarks/train_step.py --threads 2 --batch_size 64 --models vit_tiny          # CPU
    python benchmarks/train_step.py --batch_size 512 --workers 14 --steps 60               # GPU
    python benchmarks/train_step.py --threads 1 --models vit_narrow --batch_size 4 --identities 100 --no-bf16 \
        --no-compile --ways trainer bare --steps 200 --rounds 3       # what the trainer adds to the host's own work

Ways:
    trainer   FaceTrainer: batched decoding, augmentation on the device, bf16, torch.compile, channels-last for
              convolutional networks, fused optimizer; each is left out by an option
    bare      the same steps in a plain loop: no callbacks, logs, checks, states
    plain     Pillow, ToTensor, flip and Normalize per sample in workers; eager; logits of all identities at once; AdamW
              as torch has it; bfloat16 by autocast on GPUs, float32 on the CPU
    eager     FaceTrainer in float32 and without compiling (--ways eager)

All train with AdamW and clipped gradients. The first steps are not counted. With several rounds, ways take turns, and
the figure is the median. Model FLOPs utilization (MFU) counts the operations of the matrix products and convolutions of
forward and backward pass, as a share of --peak_tflops: by default those of an H100 SXM or H200 in dense bfloat16, from
NVIDIA's datasheet.
"""

import argparse
import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from data_loading import make_crops
from datasets import Dataset, load_dataset
from datasets import Image as ImageFeature
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from transformers import TrainerCallback

from hf_face.data import BatchNormalize, FaceCollator, FaceDataset, build_augmentation
from hf_face.training import FaceTrainer, FaceTrainingArguments
from hf_face.training.recipe import build_model
from hf_face.training.recipe_arguments import ModelArguments

VIT = {"model_type": "timm_face", "architecture": "vit_tiny_patch16_224", "embedding_size": 512}
CONVNEXT = {"model_type": "timm_face", "architecture": "convnext_nano", "embedding_size": 512}
CLIP = {"model_type": "clip_vision_model", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
MODELS = {
    "vit_tiny": {"backbone": {**VIT, "model_args": {"img_size": 112, "patch_size": 8}}},
    "vit_narrow": {  # of as many layers, but so little work that a step is the host's own time
        "backbone": {**VIT, "model_args": {"img_size": 112, "patch_size": 56, "embed_dim": 48, "num_heads": 2}}
    },
    "iresnet50": {"backbone": {"model_type": "iresnet", "depths": [3, 4, 14, 3]}},
    "convnext_nano": {"backbone": {**CONVNEXT, "model_args": {"patch_size": 2}}},
    "vit_face_s": {"backbone": {"model_type": "vit_face", "hidden_size": 512, "intermediate_size": 2048}},
    "clip_b16_lora": {
        "backbone": {
            "model_type": "foundation_face",
            "backbone_config": {**CLIP, "num_attention_heads": 12, "patch_size": 16, "image_size": 224},
        },
        "lora": {"r": 16, "target_modules": ["q_proj", "v_proj"]},
    },
}
CONVOLUTIONAL = {"iresnet50", "convnext_nano"}
WARM_UP_STEPS = 10
LEARNING_RATE, MAX_NORM = 1e-3, 1.0


def build(args: argparse.Namespace, name: str):
    """The training model and the image processor."""
    torch.manual_seed(0)
    return build_model(ModelArguments(**MODELS[name], margin="arcface"), args.identities)


class Clock:
    """Times the steps after the first ones, when the device has finished them."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.step, self.begin, self.end = args, 0, 0.0, 0.0

    def tick(self) -> bool:
        """End a step; whether there are more."""
        self.step += 1
        if self.step in (WARM_UP_STEPS, WARM_UP_STEPS + self.args.steps):
            if self.args.device == "cuda":
                torch.cuda.synchronize()
            self.begin, self.end = self.end, time.perf_counter()
        return self.step < WARM_UP_STEPS + self.args.steps

    @property
    def images_per_second(self) -> float:
        return self.args.steps * self.args.batch_size / (self.end - self.begin)


class ClockCallback(TrainerCallback):
    def __init__(self, clock: Clock):
        self.clock = clock

    def on_step_end(self, args, state, control, **kwargs):
        self.clock.tick()


def trainer(args: argparse.Namespace, name: str, data: Dataset, fast: bool = True) -> float:
    model, image_processor = build(args, name)
    clock = Clock(args)
    with tempfile.TemporaryDirectory() as folder:
        settings = FaceTrainingArguments(
            folder,
            max_steps=WARM_UP_STEPS + args.steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=LEARNING_RATE,
            max_grad_norm=MAX_NORM,
            bf16=fast and args.bf16,
            torch_compile=fast and args.compile,
            torch_compile_mode=args.compile_mode if fast and args.compile else None,
            channels_last=fast and name in CONVOLUTIONAL,
            decode_on_device=args.decode_on_device,
            dataloader_num_workers=args.workers,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=args.device == "cpu",
        )
        FaceTrainer(model, settings, data, image_processor=image_processor, callbacks=[ClockCallback(clock)]).train()
    return clock.images_per_second


def eager(args: argparse.Namespace, name: str, data: Dataset) -> float:
    return trainer(args, name, data, fast=False)


def bare(args: argparse.Namespace, name: str, data: Dataset) -> float:
    model, image_processor = build(args, name)
    model.to(args.device).train()
    size = image_processor.size["height"]
    collator = FaceCollator(size, args.identities)
    augment, normalize = build_augmentation("flip", size), BatchNormalize.from_image_processor(image_processor)
    normalize.to(args.device)
    compiled = torch.compile(model, mode=args.compile_mode) if args.compile else model
    layout = torch.channels_last if name in CONVOLUTIONAL else torch.contiguous_format

    def loss_of(batch) -> Tensor:
        images = batch["pixel_values"].to(args.device, non_blocking=True).contiguous()
        labels = batch["labels"].to(args.device, non_blocking=True)
        pixel_values = normalize(augment(images)).contiguous(memory_format=layout)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            return compiled(pixel_values, labels=labels).loss

    return run_loop(args, model, loader(args, FaceDataset(data), collator), loss_of, fused=True)


class PerSample(torch.utils.data.Dataset):
    """Decodes and transforms one sample at a time."""

    def __init__(self, data: Dataset, image_processor):
        self.images = data.cast_column("image", ImageFeature(decode=False))
        size = image_processor.size["height"]
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(image_processor.image_mean, image_processor.image_std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.images[index]
        return self.transform(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")), row["label"]


def plain(args: argparse.Namespace, name: str, data: Dataset) -> float:
    model, image_processor = build(args, name)
    model.to(args.device).train()

    def loss_of(batch) -> Tensor:
        images, labels = (tensor.to(args.device, non_blocking=True) for tensor in batch)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            embeddings = model.backbone(images).pooler_output
        return arcface_loss(embeddings.float(), model.head.weight, labels)

    return run_loop(args, model, loader(args, PerSample(data, image_processor)), loss_of, fused=None)


def arcface_loss(embeddings: Tensor, centers: Tensor, labels: Tensor, m: float = 0.5, s: float = 64.0) -> Tensor:
    """ArcFace (Deng et al. 2019, equation 3) as it is usually written."""
    cosines = F.linear(F.normalize(embeddings), F.normalize(centers)).clamp(-1 + 1e-7, 1 - 1e-7)
    target = torch.cos(torch.acos(cosines) + m)
    chosen = F.one_hot(labels, len(centers)).bool()
    return F.cross_entropy(s * torch.where(chosen, target, cosines), labels)


def loader(args: argparse.Namespace, data, collate_fn: Callable | None = None) -> DataLoader:
    return DataLoader(
        data,
        args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        collate_fn=collate_fn,
        pin_memory=args.device == "cuda",
    )


def run_loop(
    args: argparse.Namespace, model: nn.Module, batches: DataLoader, loss_of: Callable, fused: bool | None
) -> float:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=fused)
    clock = Clock(args)
    for batch in batches:
        loss_of(batch).backward()
        nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        if not clock.tick():
            break
    return clock.images_per_second


WAYS = {"trainer": trainer, "bare": bare, "plain": plain, "eager": eager}


def tflop_per_image(args: argparse.Namespace, name: str) -> float:
    """Operations of the forward and the backward pass of one image, the head's share included, times 10^-12."""
    model, image_processor = build(args, name)
    model.to(args.device).train()
    size, batch_size = image_processor.size["height"], 8
    images = torch.randn(batch_size, 3, size, size, device=args.device)
    with FlopCounterMode(display=False) as counter:
        model(images, labels=torch.zeros(batch_size, dtype=torch.int64, device=args.device)).loss.backward()
    return counter.get_total_flops() / batch_size / 1e12


def load_crops(args: argparse.Namespace, folder: str) -> Dataset:
    """Crops with labels below `args.identities`, repeated, since workers of some ways start anew for every pass."""
    if args.parquet is None:
        args.parquet = Path(folder, "crops.parquet")
        make_crops(args.parquet, num_images=6000)
    crops = load_dataset("parquet", data_files=str(args.parquet), split="train", cache_dir=folder)
    needed = (WARM_UP_STEPS + args.steps + 1) * args.batch_size
    return crops.select([i % len(crops) for i in range(needed)])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trained = [name for name in MODELS if name != "vit_narrow"]
    parser.add_argument("--models", nargs="+", choices=MODELS, default=trained)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["trainer", "bare", "plain"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--identities", type=int, default=10_572, help="size of the head; CASIA-WebFace's by default")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed, after 10 others")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--threads", type=int, help="of the main process")
    parser.add_argument("--parquet", type=Path, help="aligned 112 x 112 crops; made from the ORL faces by default")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile_mode", help="of torch.compile, such as reduce-overhead for CUDA graphs")
    parser.add_argument("--decode_on_device", action="store_true")
    parser.add_argument("--peak_tflops", type=float, default=989)
    return parser.parse_args()


def rows(args: argparse.Namespace, data: Dataset) -> Iterator[list[str]]:
    for name in args.models:
        found: dict[str, list[float]] = {way: [] for way in args.ways}
        for _ in range(args.rounds):
            for way in args.ways:
                torch.compiler.reset()
                found[way].append(WAYS[way](args, name, data))
                if args.device == "cuda":
                    torch.cuda.empty_cache()
        rate = {way: median(rates) for way, rates in found.items()}
        ratios = [
            f"{rate['trainer'] / rate[way]:.2f}" if {"trainer", way} <= set(rate) else "" for way in ("plain", "bare")
        ]
        mfu = f"{100 * max(rate.values()) * tflop_per_image(args, name) / args.peak_tflops:.0f} %"
        yield [name, *(f"{rate[way]:,.0f}" for way in args.ways), *ratios, *([mfu] if args.device == "cuda" else [])]


def main():
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{time.strftime('%Y-%m-%d')}, {where}, {platform.machine()}, torch {torch.__version__}")
    columns = [
        "model",
        *args.ways,
        "trainer / plain",
        "trainer / bare",
        *(["best MFU"] if args.device == "cuda" else []),
    ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        data = load_crops(args, folder)
        for row in rows(args, data):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

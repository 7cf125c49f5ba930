"""Trains a small model on one or more processes, for tests that compare numbers of ranks."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from forked import start_server
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hf_face.heads import MarginHead, clip_grad_norm_, load_head, load_head_optimizer, save_head, step_sampled_rows_only
from hf_face.heads.margin_softmax import unit_and_norm

NUM_IDENTITIES, EMBEDDING_SIZE, BATCH_SIZE = 37, 8, 12
STEPS = 12
OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1),
}


class TinyModel(nn.Module):
    """A backbone of two layers and a head; the forward pass returns the loss. With `rival`, a sample's own embedding
    gives one more negative."""

    def __init__(self, rival: bool, **head_kwargs):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, EMBEDDING_SIZE))
        self.head = MarginHead(EMBEDDING_SIZE, **{"num_identities": NUM_IDENTITIES, **head_kwargs})
        self.rival = rival

    def forward(self, pixels, labels, sample_weight=None):
        direction, norm = unit_and_norm(10 * self.backbone(pixels))
        output = self.head(direction, norm, labels, sample_weight, 60 + 30 * direction[:, 0] if self.rival else None)
        self.target_cosine = output.target_cosine
        return output.loss


def global_batch(step: int, num_identities: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, labels and weights of the samples; some ranks have more ignored samples than others."""
    generator = torch.Generator().manual_seed(step)
    pixels = torch.randn(BATCH_SIZE, 12, generator=generator)
    labels = torch.randint(num_identities, (BATCH_SIZE,), generator=generator)
    if step % 2:
        labels[[0, -1, -2]] = -1
    labels[2] = labels[1]
    return pixels, labels, torch.rand(BATCH_SIZE, generator=generator)


def train(
    head_kwargs: dict,
    steps: range = range(STEPS),
    optimizer: str = "sgd",
    shard: bool = True,
    weighted: bool = False,
    rival: bool = False,
    double: bool = False,
    max_norm: float = 5.0,
    folder: Path | None = None,
    resume: bool = False,
) -> dict[str, torch.Tensor]:
    """Losses (steps,), gradient norms (steps,), the last batch's target cosines and the final parameters of a run on
    the current ranks."""
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    model = TinyModel(rival, **head_kwargs)
    head, group = model.head, None
    if double:
        model.double()
    else:
        head.weight.data *= 30  # with the short initial centers, rounding errors grow too fast to compare runs
    if shard and world_size > 1:
        group = dist.group.WORLD
        head.shard(group)
        model._ddp_params_and_buffers_to_ignore = ["head.weight"]
    optimizer = OPTIMIZERS[optimizer]([{"params": model.backbone.parameters()}, {"params": [head.weight], "lr": 0.02}])
    if head.sample_rate < 1:
        step_sampled_rows_only(optimizer)
    if resume:
        saved = torch.load(folder / "backbone.pt", weights_only=True)
        model.backbone.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        load_head(head, folder)
        load_head_optimizer(head, folder, optimizer)
    wrapped = DistributedDataParallel(model) if world_size > 1 else model
    losses, norms = [], []
    for step in steps:
        own = slice(rank * BATCH_SIZE // world_size, (rank + 1) * BATCH_SIZE // world_size)
        pixels, labels, weights = (x[own] for x in global_batch(step, head.num_identities))
        loss = wrapped(pixels.to(head.weight.dtype), labels, weights if weighted else None)
        optimizer.zero_grad()
        loss.backward()
        norms.append(clip_grad_norm_(model.parameters(), max_norm, head.weight, group))
        optimizer.step()
        losses.append(loss.detach())
    if folder is not None and not resume:
        save_head(head, folder, optimizer)
        if rank == 0:
            saved = {"model": model.backbone.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(saved, folder / "backbone.pt")
    weights = {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
    margin = {f"margin.{name}": value for name, value in head.margin.state_dict().items()}
    cosines, centers = [model.target_cosine], [head.weight.detach()]
    if world_size > 1:
        cosines = [None] * world_size
        dist.all_gather_object(cosines, model.target_cosine)
    if group is not None:
        centers = [None] * world_size
        dist.all_gather_object(centers, head.weight.detach())
    return {
        "losses": torch.stack(losses),
        "norms": torch.stack(norms),
        "target_cosines": torch.cat(cosines),
        "centers": torch.cat(centers),
        **{name: value.clone() for name, value in {**weights, **margin}.items()},
    }


def refusals(head_kwargs: dict, shard: bool, sizes: list[int], labels: list[int]) -> str:
    """The errors of a head when ranks pass different numbers of samples, or wrong labels."""
    head = MarginHead(EMBEDDING_SIZE, NUM_IDENTITIES, group=dist.group.WORLD if shard else None, **head_kwargs)
    size, label = sizes[dist.get_rank()], labels[dist.get_rank()]
    try:
        head(*unit_and_norm(torch.randn(size, EMBEDDING_SIZE)), torch.full((size,), label))
    except ValueError as error:
        return str(error)
    return "nothing"


def _run(rank: int, world_size: int, folder: Path, function: Callable, calls: list[dict]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save([function(**kwargs) for kwargs in calls], folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def on_ranks(world_size: int, folder: Path, function: Callable, calls: list[dict]) -> list[list]:
    """For each rank, the list of results of `function(**kwargs)` for each of `calls`."""
    folder.mkdir()
    # Forked from a server that has imported the libraries: starting ranks then takes no time, and no threads fork.
    start_server()
    torch.multiprocessing.start_processes(
        _run, (world_size, folder, function, calls), nprocs=world_size, start_method="forkserver"
    )
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world_size)]

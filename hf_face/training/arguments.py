"""What can be set about a training run."""

from dataclasses import dataclass, field

import torch.distributed as dist
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments


@dataclass
class FaceTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` and what face recognition adds. Defaults that differ are the field's."""

    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the class centers. Left out: the backbone's."}
    )
    head_weight_decay: float | None = field(
        default=None, metadata={"help": "Weight decay of the class centers. Left out: the backbone's."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Keep an exponential moving average of the backbone's weights with this decay (0.999 forgets over "
            "a thousand steps). The average is what is evaluated and saved."
        },
    )
    channels_last: bool = field(
        default=False,
        metadata={"help": "Lay images out with the channels last, which convolutional nets run faster in."},
    )
    partial_fc_sample_rate: float = field(
        default=1.0,
        metadata={"help": "Share of the negative class centers that each step trains (Partial FC); 1 trains all."},
    )
    shard_head: bool = field(
        default=False,
        metadata={"help": "Split the class centers over the ranks, for more identities than one device holds."},
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Leave out an epoch's last, smaller batch (batch norm needs full ones)."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Not used: batches hold the image and the label only."}
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036  HfArgumentParser asks for this order
        default="tensorboard", metadata={"help": "Where to log to: tensorboard, trackio, wandb, none ..."}
    )

    def __post_init__(self):
        self._check_engine()
        super().__post_init__()
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, found {self.ema_decay}.")
        if not 0 < self.partial_fc_sample_rate <= 1:
            raise ValueError(
                f"partial_fc_sample_rate must be above 0 and at most 1, found {self.partial_fc_sample_rate}."
            )
        if self.shard_head and self.mixed_precision == "fp16":
            raise ValueError(
                "shard_head does not work with fp16: the ranks would scale their losses apart. Use bf16 instead."
            )
        if self.partial_fc_sample_rate < 1 and self.world_size > 1 and not self.shard_head:
            raise ValueError(
                "partial_fc_sample_rate below 1 on several ranks needs shard_head: each samples its own centers."
            )
        if (self.shard_head or self.partial_fc_sample_rate < 1) and self.n_gpu > 1:
            raise ValueError(
                f"shard_head and partial_fc_sample_rate work with one process a GPU, not one for {self.n_gpu} of them: "
                "start with `accelerate launch --multi_gpu`, or show the process one GPU (CUDA_VISIBLE_DEVICES=0)."
            )

    def _check_engine(self) -> None:
        """Engines that are asked for here or, as `accelerate launch` does, through the environment."""
        engine = None
        if self.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
            engine = "DeepSpeed"
        elif self.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"):
            engine = "FSDP"
        asked = {
            "ema_decay": self.ema_decay is not None,
            "shard_head": self.shard_head,
            "partial_fc_sample_rate": self.partial_fc_sample_rate < 1,
        }
        for name in asked:
            if engine and asked[name]:
                raise ValueError(
                    f"{name} does not work with {engine}, which splits the weights its own way. Leave {name} out, or "
                    "train with plain data parallelism (`accelerate launch --multi_gpu`)."
                )

    @property
    def head_group(self) -> dist.ProcessGroup | None:
        """The ranks to split the class centers over, None for no split."""
        return dist.group.WORLD if self.shard_head and self.world_size > 1 else None

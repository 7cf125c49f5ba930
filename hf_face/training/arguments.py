"""Settings of a training run."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch.distributed as dist
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.training_args import OptimizerNames

from .refused import changed_settings, check_settings

ONE_PROCESS_PER_GPU = (
    "requires one process per GPU, not one for {} GPUs: start with `accelerate launch --multi_gpu`, or make only one "
    "GPU visible (CUDA_VISIBLE_DEVICES=0)."
)

# Optimizers that look at one value of a weight at a time, and whose state engines split and gather like weights.
OF_SINGLE_VALUES = ("adamw_torch", "adamw_torch_fused", "rmsprop", "sgd")


@dataclass(repr=False)  # TrainingArguments' own hides tokens
class FaceTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with further settings, and defaults, for face recognition."""

    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the class centers; that of the backbone by default."}
    )
    head_weight_decay: float | None = field(
        default=None, metadata={"help": "Weight decay of the class centers; that of the backbone by default."}
    )
    lr_milestones: list[float] | None = field(
        default=None,
        metadata={
            "help": "Divide the learning rate by 10 after each of these shares of the training, such as 0.5 0.8, in "
            "place of a schedule."
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay of an exponential moving average of the backbone's weights (0.999 averages over about a "
            "thousand steps). The average is evaluated and saved."
        },
    )
    freeze_batch_norm: bool = field(
        default=False,
        metadata={
            "help": "Keep the statistics of the backbone's batch norms, and normalize with them in training too: for "
            "fine-tuning on few people."
        },
    )
    channels_last: bool = field(
        default=False,
        metadata={"help": "Use the channels-last memory format, which is faster for convolutional networks."},
    )
    decode_on_device: bool = field(
        default=False,
        metadata={
            "help": "Decode JPEG images on the GPU, if the data loader's workers cannot keep up with it. Its pixels "
            "differ from theirs by a few levels. Workers still decode other formats, and everything without a GPU."
        },
    )
    partial_fc_sample_rate: float | None = field(
        default=None,
        metadata={
            "help": "Share of negative class centers to train in each step (Partial FC); 1 trains all. That of the "
            "model's head by default, which is 1."
        },
    )
    shard_head: bool = field(
        default=False,
        metadata={"help": "Split the class centers over ranks, for more identities than fit on one device."},
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Drop the last, incomplete batch of an epoch (batch norm needs full batches)."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Not used: only images and labels are read."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Not used: a loss or gradient that is not finite stops the training."}
    )
    on_divergence: Literal["raise", "skip"] = field(
        default="raise",
        metadata={
            "help": "What to do in a step whose loss or gradient is not finite: stop with an error (raise), or skip "
            "it. Its rows are written to not_finite.jsonl in output_dir."
        },
    )
    enable_jit_checkpoint: bool = field(
        default=False, metadata={"help": "Not used: SIGTERM and SIGUSR1 always stop a training with a checkpoint."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "auto to resume from the newest complete checkpoint in output_dir, or start if there is none; "
            "or a checkpoint, or the folder of another run."
        },
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036  HfArgumentParser asks for this order
        default="tensorboard", metadata={"help": "Where to log to: tensorboard, trackio, wandb, none ..."}
    )

    def __post_init__(self):
        if self.fsdp in ("true", "false"):  # as other settings are given to a command
            self.fsdp = self.fsdp == "true"  # type: ignore[assignment]
        self._check_engine()
        if self.accelerator_config is None:  # a batch is copied to a GPU while it computes the last step
            self.accelerator_config = {"non_blocking": self.dataloader_pin_memory}
        direction_given = self.greater_is_better is not None
        super().__post_init__()
        create_models_whole()
        compute_in_bfloat16(self)
        if not direction_given:
            self.greater_is_better = None  # transformers guesses by the name; the trainer asks the protocol
        self.enable_jit_checkpoint = False  # transformers' way would be added to the trainer's own
        self.remove_unused_columns = False  # nothing else is read, and `Trainer` would wrap the collator
        check_settings(self)
        milestones = self.lr_milestones or []
        if not (isinstance(milestones, list | tuple) and all(0 < share < 1 for share in milestones)):
            raise ValueError(f"lr_milestones must be a list of shares between 0 and 1, found {self.lr_milestones}.")
        if self.lr_milestones and self.warmup_steps:
            raise ValueError("lr_milestones is a schedule without warm-up: leave out warmup_steps.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, found {self.ema_decay}.")
        if self.on_divergence not in ("raise", "skip"):
            raise ValueError(f"on_divergence must be raise or skip, found {self.on_divergence!r}.")
        if self.partial_fc_sample_rate is not None and not 0 < self.partial_fc_sample_rate <= 1:
            raise ValueError(
                f"partial_fc_sample_rate must be above 0 and at most 1, found {self.partial_fc_sample_rate}."
            )
        if self.shard_head and self.mixed_precision == "fp16":
            raise ValueError(
                "shard_head does not work with fp16, where the ranks would scale their losses differently. Use bf16."
            )
        self.check_sample_rate(self.partial_fc_sample_rate)
        if self.shard_head and self.n_gpu > 1:
            raise ValueError(f"shard_head {ONE_PROCESS_PER_GPU.format(self.n_gpu)}")

    def check_sample_rate(self, rate: float | None) -> None:
        """
        Raises:
            ValueError: if the class centers cannot be sampled on these ranks.
        """
        if rate is None or rate == 1:
            return
        if self.world_size > 1 and not self.shard_head:
            raise ValueError(
                "partial_fc_sample_rate below 1 on several ranks requires shard_head, so that each rank samples its "
                "own centers."
            )
        if self.n_gpu > 1:
            raise ValueError(f"partial_fc_sample_rate {ONE_PROCESS_PER_GPU.format(self.n_gpu)}")

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, as `Trainer` does with its arguments beside every saved model: everything but tokens."""
        return {name: None if name.endswith("_token") else value for name, value in self.__dict__.items()}

    def _check_engine(self) -> None:
        """
        Raises:
            ValueError: if a setting does not work with the engine that is set here, or by `accelerate launch`.
        """
        engine, optim = self.engine, OptimizerNames(self.optim).value
        if engine and optim not in OF_SINGLE_VALUES:
            raise ValueError(
                f"optim={optim} does not work with {engine}, which splits the weights and the optimizer's state. Set "
                f"optim to {', '.join(OF_SINGLE_VALUES[:-1])} or {OF_SINGLE_VALUES[-1]}, or train with plain data "
                "parallelism (`accelerate launch --multi_gpu`)."
            )
        for name in ("bf16_full_eval", "fp16_full_eval", "auto_find_batch_size"):
            if engine and getattr(self, name):
                raise ValueError(
                    f"{name} does not work with {engine}, which splits the weights itself. Leave {name} out, or train "
                    "with plain data parallelism (`accelerate launch --multi_gpu`)."
                )

    @property
    def engine(self) -> str | None:
        """The engine that is set here, or by `accelerate launch`."""
        if self.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
            return "DeepSpeed"
        return "FSDP" if self.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP") else None

    @property
    def head_group(self) -> dist.ProcessGroup | None:
        """The ranks that the class centers are split over; None if they are not."""
        return dist.group.WORLD if self.shard_head and self.world_size > 1 else None


def create_models_whole() -> None:
    """
    Make transformers create and load whole models under ZeRO-3, too, which splits them when training starts. If they
    were split while they are created, weights that timm draws would stay uninitialized, and others would be drawn in
    another order.
    """
    unset_hf_deepspeed_config()


def compute_in_bfloat16(args: TrainingArguments) -> None:
    """
    Make DeepSpeed compute with autocast where bf16 is set. By itself, it would cast all weights, including those of
    batch norm, which fails with its float32 statistics.
    """
    if args.deepspeed_plugin is None or args.mixed_precision != "bf16":
        return
    args.mixed_precision = "no"
    config = args.deepspeed_plugin.deepspeed_config
    config.pop("bf16", None)
    config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}


def as_face_arguments(args: TrainingArguments | None) -> FaceTrainingArguments:
    """Convert transformers' arguments: settings that still have transformers' default get ours."""
    if args is None:
        return FaceTrainingArguments("tmp_trainer")  # as in `Trainer`
    if isinstance(args, FaceTrainingArguments):
        return args
    changed = changed_settings(args)
    guess = not (args.metric_for_best_model or "").endswith("loss")
    if args.greater_is_better == guess:  # by transformers, not by the user
        changed.pop("greater_is_better", None)
    return FaceTrainingArguments(**changed)

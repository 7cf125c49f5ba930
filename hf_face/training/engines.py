"""Training with weights that FSDP or DeepSpeed split over the ranks."""

from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, broadcast
from torch import Tensor, nn


class EnginesMixin:
    """The part of [`FaceTrainer`] that knows who holds the weights."""

    def create_accelerator_and_postprocess(self) -> None:
        """As `Trainer`'s; but settings that would fail, or fail only when the model is saved, are refused or replaced.

        Raises:
            ValueError: for settings of FSDP or DeepSpeed that do not work with face models.
        """
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            self._prepare_fsdp(self.accelerator.state.fsdp_plugin)
        if self.is_deepspeed_enabled:
            self._check_deepspeed(self.accelerator.state.deepspeed_plugin)

    def _prepare_fsdp(self, plugin: FullyShardedDataParallelPlugin) -> None:
        if plugin.fsdp_version == 2 and plugin.cpu_ram_efficient_loading:
            raise ValueError(
                "FSDP's cpu_ram_efficient_loading cannot hand out buffers, such as the statistics of batch norm: set "
                "it to false in fsdp_config (fsdp_cpu_ram_efficient_loading of accelerate)."
            )
        # FSDP would cast all weights, those of batch norm too, which fails beside its float32 statistics. compute_loss
        # runs under autocast instead, as with plain data parallelism.
        plugin.mixed_precision_policy = None

    def _check_deepspeed(self, plugin: DeepSpeedPlugin) -> None:
        if self.accelerator.mixed_precision != "no":
            raise ValueError(
                "DeepSpeed would cast all weights, those of batch norm too, which fails beside its float32 statistics: "
                "leave bf16 and fp16 out, and let DeepSpeed's settings say "
                '"torch_autocast": {"enabled": true, "dtype": "bfloat16"} (see recipes/accelerate/deepspeed.json).'
            )
        zero = plugin.deepspeed_config["zero_optimization"]
        if plugin.zero_stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
            raise ValueError(
                "The model could not be saved: set stage3_gather_16bit_weights_on_model_save to true in the "
                "zero_optimization of DeepSpeed's settings."
            )

    @property
    def splits_weights(self) -> bool:
        """Whether an engine holds the weights, of which a rank may have a part only."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    @property
    def evaluated_model(self) -> nn.Module:
        """What evaluation embeds faces with: the averaged backbone, or the backbone, or all of a split model."""
        if self.splits_weights:
            return self.model_wrapped  # its parts cannot be called alone
        return self.model.backbone if self.ema is None else self.ema.module

    def share_buffers(self) -> None:
        """Gives all ranks the first one's batch norm statistics, which are those that are saved."""
        broadcast(list(self.evaluated_model.buffers()))

    def whole_state_dict(self, part: str) -> dict[str, Tensor]:
        """Weights of the backbone or the head, on the first rank whole whoever splits them over the ranks."""
        if not self.splits_weights:
            return getattr(self.model, part).state_dict()
        weights = self.accelerator.get_state_dict(self.model_wrapped) or {}
        return {name.removeprefix(f"{part}."): w for name, w in weights.items() if name.startswith(f"{part}.")}

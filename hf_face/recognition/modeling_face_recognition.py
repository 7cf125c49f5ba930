"""The training model, a face backbone with its margin head, which the Trainer trains and checkpoints."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import ModelOutput, can_return_tuple

from ..heads import Margin, MarginHead, build_margin
from ..heads.head_files import INDEX_NAME as HEAD_INDEX_NAME
from ..heads.head_files import find_head, load_head, read_index, read_weight
from ..models import FaceEmbeddingOutput, FaceImageProcessor
from .configuration_face_recognition import FaceRecognitionConfig, settings_of_record


@dataclass
class FaceRecognitionOutput(ModelOutput):
    """
    Loss and embeddings of a batch of faces.

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*, returned with `labels`):
            Mean margin softmax loss, including the margin's regularizer if it has one.
        pooler_output (`torch.Tensor` of shape `(batch, embedding_size)`):
            Unit-length embeddings.
        norm (`torch.Tensor` of shape `(batch, 1)`):
            Length of the embeddings before normalization.
        target_cosine (`torch.Tensor` of shape `(batch,)`, *optional*, returned with `labels`):
            Cosine between each embedding and its own class center, before the margin.
        backbone_output ([`FaceEmbeddingOutput`]):
            Complete output of the backbone, including patch weights if requested.
        hidden_states, attentions (`tuple[torch.Tensor]`, *optional*):
            The backbone's, returned with `output_hidden_states=True` and `output_attentions=True`.
        further (`dict[str, torch.Tensor]`, *optional*, returned with `further`):
            What the function has computed.
    """

    loss: Tensor | None = None
    pooler_output: Tensor | None = None
    norm: Tensor | None = None
    target_cosine: Tensor | None = None
    backbone_output: FaceEmbeddingOutput | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    further: dict[str, Tensor] | None = None


class FaceRecognitionModel(PreTrainedModel):
    """
    A face backbone (`model.backbone`) and its margin head (`model.head`).

    Args:
        config ([`FaceRecognitionConfig`]):
            Configuration of both.
        backbone (`PreTrainedModel`, *optional*):
            A backbone to use instead of a new one.
        head_group (`torch.distributed.ProcessGroup`, *optional*):
            Ranks to split the class centers over, so that no rank ever holds all of them.

    Example:
    ```python
    >>> config = FaceRecognitionConfig(backbone_config={"model_type": "timm_face"}, num_identities=1000)
    >>> model = FaceRecognitionModel(config)
    >>> model(pixel_values, labels=labels).loss.backward()
    >>> model.backbone.save_pretrained("face_model")  # all that is needed to embed faces
    ```
    """

    config_class = FaceRecognitionConfig
    config: FaceRecognitionConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # as in transformers
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = [r"^method\."]  # noqa: RUF012  modules of the training method
    _supports_sdpa = True
    is_in_training = False  # set by a trainer
    freeze_batch_norm = False  # set by a trainer

    def __init__(
        self,
        config: FaceRecognitionConfig,
        backbone: PreTrainedModel | None = None,
        head_group: dist.ProcessGroup | None = None,
    ):
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config) if backbone is None else backbone
        self.backbone.config.margin = config.margin_record
        self.backbone.config.similarity_thresholds = None  # calibrated for the weights before training
        self.head = MarginHead(
            config.backbone_config.embedding_size,
            config.num_identities,
            margin=config.margin,
            margin_kwargs=config.margin_kwargs,
            scale=config.scale,
            sub_centers=config.sub_centers,
            chunk_size=config.chunk_size,
            filter_threshold=config.filter_threshold,
            group=head_group,
        )
        # A head draws its class centers when it is created, except on the meta device, which from_pretrained uses.
        self.head._is_hf_initialized = not self.head.weight.is_meta  # type: ignore[assignment]
        self.post_init()

    @classmethod
    def from_backbone(
        cls, backbone: PreTrainedModel, head_group: dist.ProcessGroup | None = None, **config
    ) -> "FaceRecognitionModel":
        """
        Add a new margin head to a trained backbone, for fine-tuning.

        Args:
            backbone: any face backbone; used directly, not copied.
            head_group: as in [`FaceRecognitionModel`].
            config: settings of [`FaceRecognitionConfig`] other than `backbone_config`.
        """
        return cls(FaceRecognitionConfig(backbone_config=backbone.config, **config), backbone, head_group)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, head: bool = False, **kwargs):
        """
        As in `PreTrainedModel`, but also loads a head saved in separate files (`head.index.json`).

        Args:
            head: Whether to load a backbone and the head beside it, to continue its training: a checkpoint converted
                with its class centers, or a model published with its head. `kwargs` are then settings of
                [`FaceRecognitionConfig`]; the margin's default to the backbone's record of its training.
        """
        if head:
            return cls._from_backbone_and_head(pretrained_model_name_or_path, **kwargs)
        folder = Path(pretrained_model_name_or_path or "")
        if pretrained_model_name_or_path is None or not (folder / HEAD_INDEX_NAME).is_file():
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if "config" not in kwargs:
            config, kwargs = cls.config_class.from_pretrained(folder, return_unused_kwargs=True, **kwargs)
            kwargs["config"] = config
        weights = {
            name: weight for path in folder.glob("model*.safetensors") for name, weight in load_file(path).items()
        }
        return super().from_pretrained(
            None, *args, state_dict={**weights, "head.weight": read_weight(folder)}, **kwargs
        )

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in `PreTrainedModel`, but in training with the model's own names of weights, as `Trainer` loads them."""
        super().save_pretrained(save_directory, *args, **{"save_original_format": not self.is_in_training, **kwargs})

    @classmethod
    def _from_backbone_and_head(cls, name_or_path: str | Path, **config) -> "FaceRecognitionModel":
        backbone, folder = AutoModel.from_pretrained(name_or_path), find_head(name_or_path)
        index = read_index(folder)
        stated = {name: index[name] for name in ("num_identities", "sub_centers")}
        model = cls.from_backbone(backbone, **{**settings_of_record(backbone.config.margin), **config, **stated})
        load_head(model.head, folder)
        return model.eval()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the head's tensors that are missing from a checkpoint; backbones initialize themselves."""
        if isinstance(module, MarginHead):
            init.zeros_(module.num_samples)
            if not getattr(module.weight, "_is_hf_initialized", False):
                module.reset_parameters()
        elif isinstance(module, Margin):
            fresh = build_margin(self.config.margin, **(self.config.margin_kwargs or {}))
            for buffer, value in zip(module.buffers(), fresh.buffers(), strict=True):
                init.copy_(buffer, value)

    def train(self, mode: bool = True) -> "FaceRecognitionModel":
        """As in `nn.Module`, but with `freeze_batch_norm`, the backbone's batch norms stay as in evaluation."""
        if mode and not self.freeze_batch_norm and self.head.training and all(each.training for each in self.modules()):
            return self  # setting the mode of every module takes longer than asking for it
        super().train(mode)
        self.head.train(mode)  # not a module of this model after take_head_apart
        if self.freeze_batch_norm:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def take_head_apart(self) -> None:
        """Keep the head as a plain attribute, no module of the model, so that DeepSpeed does not manage its weights."""
        if "head" in self._modules:
            self.__dict__["head"] = self._modules.pop("head")

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs):
        self.backbone._set_gradient_checkpointing(enable=enable, **kwargs)

    def embed(self, pixel_values: Tensor, **kwargs) -> FaceEmbeddingOutput:
        """
        Return the backbone's complete output.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`):
                Normalized crops.
            kwargs:
                Additional arguments of the backbone's `forward`, such as `output_hidden_states=True`.
        """
        return self.backbone(pixel_values=pixel_values, **kwargs)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | Callable[[FaceEmbeddingOutput], Tensor] | None = None,
        further: Callable[[FaceEmbeddingOutput], dict[str, Tensor]] | None = None,
        rival: Callable[[FaceEmbeddingOutput], Tensor] | None = None,
        **kwargs,
    ) -> FaceRecognitionOutput | tuple[Tensor, ...]:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`):
                Normalized crops.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
                Identities, from 0 to `num_identities - 1`; crops with label -1 are excluded from the loss.
            sample_weight (`torch.Tensor` of shape `(batch,)` or `Callable`, *optional*):
                Weights of the samples' losses, or a function that computes them from the backbone's output.
            further (`Callable`, *optional*):
                Computes something else from the backbone's output. Parameters of a training method are used here,
                inside `forward`, as data parallelism does not expect gradients of others.
            rival (`Callable`, *optional*):
                Computes from the backbone's output logits `(batch,)` of one more negative for each sample, relative to
                the sample's own logit.
            kwargs:
                Additional arguments of the backbone's `forward`, such as `output_hidden_states=True`.
        """
        for name in ("output_hidden_states", "output_attentions"):
            if kwargs.get(name) is None and getattr(self.config, name):
                kwargs[name] = True
        embedding = self.embed(pixel_values, **kwargs)
        output = FaceRecognitionOutput(
            pooler_output=embedding.pooler_output,
            norm=embedding.norm,
            backbone_output=embedding,
            hidden_states=embedding.get("hidden_states"),
            attentions=embedding.get("attentions"),
        )
        if labels is not None:
            if callable(sample_weight):
                sample_weight = sample_weight(embedding)
            logits = None if rival is None else rival(embedding)
            judged = self.head(embedding.pooler_output, embedding.norm, labels, sample_weight, logits)
            output["loss"], output["target_cosine"] = judged.loss, judged.target_cosine
        if further is not None:
            output["further"] = further(embedding)
        return output


class AutoModelForFaceRecognition(_BaseAutoModelClass):
    """Loads a training model (backbone and margin head) from a folder or the Hub."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())  # type: ignore[assignment]


AutoConfig.register(FaceRecognitionConfig.model_type, FaceRecognitionConfig)
AutoModelForFaceRecognition.register(FaceRecognitionConfig, FaceRecognitionModel)
AutoModel.register(FaceRecognitionConfig, FaceRecognitionModel)
AutoImageProcessor.register(FaceRecognitionConfig, image_processor_classes={"torchvision": FaceImageProcessor})

__all__ = ["AutoModelForFaceRecognition", "FaceRecognitionModel", "FaceRecognitionOutput"]

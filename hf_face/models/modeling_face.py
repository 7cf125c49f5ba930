"""Base model and output shared by all face model families."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import PrefixChange, WeightRenaming
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_face import FaceConfig
from .layers import FusableMixin, check_crop_size, count_batches_once, refuse_attentions, refuse_unknown


@dataclass
class FaceEmbeddingOutput(ModelOutput):
    """
    Embeddings of a batch of faces.

    Args:
        pooler_output (`torch.Tensor` of shape `(batch, embedding_size)`):
            Unit-length embeddings, float32: the dot product of two embeddings is their cosine similarity.
        norm (`torch.Tensor` of shape `(batch, 1)`):
            Length of the embedding before normalization, float32. `pooler_output * norm` is the raw embedding; margin
            losses such as AdaFace and MagFace use the norm as a measure of image quality.
        last_hidden_state (`torch.Tensor`, *optional*):
            Tokens `(batch, tokens, channels)` or feature map `(batch, channels, height, width)` before pooling.
        hidden_states (`tuple[torch.Tensor]`, *optional*, returned with `output_hidden_states=True`):
            Output of each stage or block.
        attentions (`tuple[torch.Tensor]`, *optional*, returned with `output_attentions=True`):
            Attention maps of each layer, `(batch, heads, tokens, tokens)`.
    """

    pooler_output: Tensor | None = None
    norm: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class FacePreTrainedModel(PreTrainedModel):
    """Base class of all face backbones."""

    config_class = FaceConfig
    config: FaceConfig
    base_model_prefix = "backbone"  # as in the training model, so that its checkpoints load as backbones
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # as in transformers
    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_missing = [r"num_batches_tracked$"]  # noqa: RUF012  written since torch 0.4.1 only

    def get_input_embeddings(self):
        """None: images have no embedding table. FSDP calls this method."""
        return None

    def prepare_pixels(self, pixel_values: Tensor) -> Tensor:
        """Cast normalized crops to the model's dtype. Raises `ValueError` for integers, which are not normalized."""
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values are {pixel_values.dtype}, but a model takes normalized crops. Use its image processor."
            )
        return pixel_values.to(next((p.dtype for p in self.parameters() if p.is_floating_point()), pixel_values.dtype))

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        count_batches_once(self)


class ConvolutionalMixin(FusableMixin):
    """
    The forward pass of a convolutional backbone: a `stem`, the `stages` and a `neck` that maps the last feature map to
    the raw embedding.
    """

    prepare_pixels: Callable[[Tensor], Tensor]  # of FacePreTrainedModel
    stem: nn.Module
    stages: nn.ModuleList
    neck: nn.Module
    takes_any_size = False  # the neck pools rather than flattens

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> FaceEmbeddingOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, image_size, image_size)`):
                Normalized crops from `FaceImageProcessor`. Pooled necks accept any size.
            output_hidden_states (`bool`, *optional*):
                Whether to also return the feature maps after the stem and after each stage.
            output_attentions (`bool`, *optional*):
                Refused if true: the network has no attention.

        Raises:
            ValueError: if crops are integers or of another size, or attention maps are asked for.
        """
        refuse_unknown(self, kwargs)
        refuse_attentions(self, output_attentions)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if not self.takes_any_size:
            check_crop_size(pixel_values, self.config.image_size)
        feature_map = self.stem(self.prepare_pixels(pixel_values))
        hidden_states: tuple[Tensor, ...] | None = (feature_map,) if output_hidden_states else None
        for stage in self.stages:
            feature_map = stage(feature_map)
            if output_hidden_states:
                hidden_states += (feature_map,)
        return face_embedding_output(self.neck(feature_map), feature_map, hidden_states)


class ConvolutionalPreTrainedModel(FacePreTrainedModel):
    """Base class of convolutional backbones, whose weights are drawn by He's initialization."""

    supports_gradient_checkpointing = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.PReLU):
            nn.init.constant_(module.weight, 0.25)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def face_embedding_output(
    raw: Tensor,
    last_hidden_state: Tensor | None = None,
    hidden_states: tuple[Tensor, ...] | None = None,
    attentions: tuple[Tensor, ...] | None = None,
) -> FaceEmbeddingOutput:
    """
    Normalize a raw embedding `(batch, embedding_size)` and return it as a face model's output.

    Always computed in float32: in bfloat16, the length of a unit vector is off by up to 0.4 percent, more than the
    difference between two thresholds. A zero embedding has no direction: it stays zero, without gradient.
    """
    raw = raw.float()
    norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
    return FaceEmbeddingOutput(
        pooler_output=torch.where(norm > 1e-12, raw / norm.clamp_min(1e-12), 0),
        norm=norm,
        last_hidden_state=last_hidden_state,
        hidden_states=hidden_states,
        attentions=attentions,
    )


class FormerName(PrefixChange):
    """A weight's name in other checkpoints, which is read but not written: what transformers has PrefixChange for."""

    def __init__(self, source_patterns: str, target_patterns: str):
        WeightRenaming.__init__(self, source_patterns, target_patterns)

    def reverse_transform(self):
        return self.copy(self._original_target_patterns, self._original_target_patterns)


FacePreTrainedModel.register_for_auto_class("AutoModel")  # save_pretrained copies the code of every subclass

__all__ = [
    "ConvolutionalMixin",
    "ConvolutionalPreTrainedModel",
    "FaceEmbeddingOutput",
    "FacePreTrainedModel",
    "FormerName",
    "face_embedding_output",
]

"""Base model and output shared by all face model families."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_face import FaceConfig
from .layers import count_batches_once


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
    base_model_prefix = "model"
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
    norm = torch.linalg.vector_norm(raw, dim=-1, keepdim=True)
    return FaceEmbeddingOutput(
        pooler_output=torch.where(norm > 1e-12, raw / norm.clamp_min(1e-12), 0),
        norm=norm,
        last_hidden_state=last_hidden_state,
        hidden_states=hidden_states,
        attentions=attentions,
    )


FacePreTrainedModel.register_for_auto_class("AutoModel")  # save_pretrained copies the code of every subclass

__all__ = ["FaceEmbeddingOutput", "FacePreTrainedModel", "face_embedding_output"]

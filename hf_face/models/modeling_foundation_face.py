"""Face models with a transformers vision model as backbone."""

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import can_return_tuple

from .configuration_foundation_face import FoundationFaceConfig
from .layers import eager_attention, refuse_unknown
from .modeling_face import FaceEmbeddingOutput, FacePreTrainedModel, face_embedding_output


class FoundationFacePreTrainedModel(FacePreTrainedModel):
    """Handles the initialization and loading of face models of transformers' vision models."""

    config_class = FoundationFaceConfig
    config: FoundationFaceConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class FoundationFaceModel(FoundationFacePreTrainedModel):
    """
    A foundation model that uses its pooled output, optionally projected, as the face embedding.

    FRoundation (Chettaoui, Damer and Boutros, Image and Vision Computing 156, 2025) adapts foundation models to faces
    with LoRA on the query and value projections:

    ```python
    >>> from peft import LoraConfig, get_peft_model
    >>> from hf_face import FoundationFaceModel

    >>> model = FoundationFaceModel.from_backbone("openai/clip-vit-base-patch16")  # doctest: +SKIP
    >>> model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))  # doctest: +SKIP
    ```
    """

    def __init__(self, config: FoundationFaceConfig):
        super().__init__(config)
        backbone_class = getattr(transformers, config.backbone_class_name)
        self.backbone = backbone_class._from_config(config.backbone_config, **_backbone_kwargs(backbone_class, config))
        self.projection: nn.Module = nn.Identity()
        if config.embedding_size != config.pooled_size:
            self.projection = nn.Linear(config.pooled_size, config.embedding_size, bias=False)
        accepted = inspect.signature(self.backbone.forward).parameters
        self._takes_patches = "spatial_shapes" in accepted
        self._interpolates_on_request = "interpolate_pos_encoding" in accepted
        self.post_init()

    @classmethod
    def from_backbone(cls, name_or_path: str, **config_kwargs) -> "FoundationFaceModel":
        """
        Create a face model with a foundation model's pretrained weights.

        Args:
            name_or_path (`str`):
                Hub name or folder of a model supported by transformers, such as `"facebook/dinov2-base"`.
            config_kwargs:
                Additional settings of [`FoundationFaceConfig`], such as `image_size` or `embedding_size`.

        Raises:
            OSError: if there is no such model.
            ValueError: if it is not a vision model by itself, or does not support the `pooling`.
        """
        model = cls(FoundationFaceConfig(backbone_config=name_or_path, **config_kwargs))
        backbone_class = type(model.backbone)
        model.backbone = backbone_class.from_pretrained(
            name_or_path, config=model.config.backbone_config, **_backbone_kwargs(backbone_class, model.config)
        )
        return model

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs):
        if not any(hasattr(module, "gradient_checkpointing") for module in self.backbone.modules()):
            raise ValueError(f"{self.config.backbone_config.model_type} has no gradient checkpointing in transformers.")
        super()._set_gradient_checkpointing(enable, *args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> FaceEmbeddingOutput | tuple[Tensor, ...]:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, height, width)`):
                Normalized crops. Position embeddings are interpolated to their size.
            output_hidden_states (`bool`, *optional*):
                Whether to also return the backbone's hidden states.
            output_attentions (`bool`, *optional*):
                Whether to also return the backbone's attention maps, for which it uses eager attention.

        Raises:
            ValueError: if the backbone has no attention maps, or crops are integers.
        """
        refuse_unknown(self, kwargs)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        inputs = self._backbone_inputs(self.prepare_pixels(pixel_values))
        inputs |= {"output_hidden_states": output_hidden_states, "return_dict": True}
        if output_attentions:
            with eager_attention(self.backbone):
                outputs = self.backbone(**inputs, output_attentions=True)
        else:
            outputs = self.backbone(**inputs)
        if output_attentions and not outputs.get("attentions"):
            raise ValueError(f"output_attentions: {self.config.backbone_config.model_type} has no attention maps.")
        height, width = pixel_values.shape[2:]
        raw = self.projection(_pool(outputs, self.config, height, width))
        return face_embedding_output(raw, outputs.last_hidden_state, outputs.hidden_states, outputs.get("attentions"))

    def _backbone_inputs(self, pixel_values: Tensor) -> dict[str, Any]:
        if self._takes_patches:
            return _patchify(pixel_values, self.config.backbone_config.patch_size)
        if self._interpolates_on_request:
            return {"pixel_values": pixel_values, "interpolate_pos_encoding": True}
        return {"pixel_values": pixel_values}


def _backbone_kwargs(backbone_class: type[PreTrainedModel], config: FoundationFaceConfig) -> dict[str, bool]:
    """Leave out a pooling layer (ViT) that would be unused and receive no gradient."""
    if "add_pooling_layer" in inspect.signature(backbone_class.__init__).parameters:
        return {"add_pooling_layer": config.pooling == "pooler"}
    return {}


def _patchify(pixel_values: Tensor, patch_size: int) -> dict[str, Any]:
    """Split images into SigLIP 2's patches (batch, patches, patch_size * patch_size * channels), row by row."""
    batch, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    patches = patches.permute(0, 2, 3, 4, 5, 1)  # (batch, rows, columns, patch_size, patch_size, channels)
    return {
        "pixel_values": patches.reshape(batch, rows * columns, patch_size**2 * channels),
        "pixel_attention_mask": None,
        # One row for the whole batch: position embeddings are resized once and broadcast. On the CPU, because Python
        # code reads the values.
        "spatial_shapes": torch.tensor([[rows, columns]]),
    }


def _pool(outputs: Any, config: FoundationFaceConfig, height: int, width: int) -> Tensor:
    """Pool the outputs for images of this size to (batch, pooled_size), as `config.pooling` selects."""
    if config.pooling == "image_embeds":
        return outputs.image_embeds
    if config.pooling == "pooler":
        return outputs.pooler_output.flatten(1)  # convolutional backbones keep (batch, channels, 1, 1)
    tokens = outputs.last_hidden_state
    if tokens.ndim != 3:
        raise ValueError(
            f"pooling={config.pooling!r} expects tokens (batch, tokens, channels), but this backbone returns a feature "
            f"map {tuple(tokens.shape)}. Use 'pooler'."
        )
    if config.pooling == "cls":
        return tokens[:, 0]
    # Class and register tokens come first. A pyramid has fewer tokens than patches, all of them patch tokens.
    patch_size = config.backbone_config.patch_size
    patches = (height // patch_size) * (width // patch_size)
    return tokens[:, -patches:].mean(1)


__all__ = ["FoundationFaceModel", "FoundationFacePreTrainedModel"]

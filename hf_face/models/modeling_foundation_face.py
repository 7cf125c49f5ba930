"""Face models whose backbone is a vision model of transformers."""

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_foundation_face import FoundationFaceConfig
from .modeling_face import FaceEmbeddingOutput, FacePreTrainedModel, face_embedding_output


class FoundationFacePreTrainedModel(FacePreTrainedModel):
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
    A foundation model whose pooled output, projected or not, is a face embedding.

    FRoundation (Chettaoui, Damer and Boutros, Image and Vision Computing 156, 2025) adapts one to faces by LoRA on the
    query and value projections:

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
        self.projection = nn.Identity()
        if config.embedding_size != config.pooled_size:
            self.projection = nn.Linear(config.pooled_size, config.embedding_size, bias=False)
        accepted = inspect.signature(self.backbone.forward).parameters
        self._takes_patches = "spatial_shapes" in accepted
        self._interpolates_on_request = "interpolate_pos_encoding" in accepted
        self.post_init()

    @classmethod
    def from_backbone(cls, name_or_path: str, **config_kwargs) -> "FoundationFaceModel":
        """
        A face model that starts from a foundation model's published weights.

        Args:
            name_or_path (`str`):
                Hub name or folder of a model that transformers knows, such as `"facebook/dinov2-base"`.
            config_kwargs:
                Further settings of [`FoundationFaceConfig`], such as `image_size` or `embedding_size`.
        """
        model = cls(FoundationFaceConfig(backbone_config=name_or_path, **config_kwargs))
        backbone_class = type(model.backbone)
        model.backbone = backbone_class.from_pretrained(
            name_or_path, config=model.config.backbone_config, **_backbone_kwargs(backbone_class, model.config)
        )
        return model

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> FaceEmbeddingOutput | tuple[Tensor, ...]:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, height, width)`):
                Normalized crops. Position embeddings are interpolated to their size.
            output_hidden_states (`bool`, *optional*):
                Also return the backbone's hidden states.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs = self.backbone(
            **self._backbone_inputs(pixel_values), output_hidden_states=output_hidden_states, return_dict=True
        )
        height, width = pixel_values.shape[-2:]
        raw = self.projection(_pool(outputs, self.config, height, width))
        return face_embedding_output(raw, outputs.last_hidden_state, outputs.hidden_states)

    def _backbone_inputs(self, pixel_values: Tensor) -> dict[str, Any]:
        if self._takes_patches:
            return _patchify(pixel_values, self.config.backbone_config.patch_size)
        if self._interpolates_on_request:
            return {"pixel_values": pixel_values, "interpolate_pos_encoding": True}
        return {"pixel_values": pixel_values}


def _backbone_kwargs(backbone_class: type[PreTrainedModel], config: FoundationFaceConfig) -> dict[str, bool]:
    """Leaves out a pooling layer (ViT) that nothing would read and no gradient would reach."""
    if "add_pooling_layer" in inspect.signature(backbone_class.__init__).parameters:
        return {"add_pooling_layer": config.pooling == "pooler"}
    return {}


def _patchify(pixel_values: Tensor, patch_size: int) -> dict[str, Any]:
    """A batch of images as SigLIP 2 takes it: (batch, patches, patch_size * patch_size * channels), row by row."""
    batch, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    patches = patches.permute(0, 2, 3, 4, 5, 1)  # (batch, rows, columns, patch_size, patch_size, channels)
    return {
        "pixel_values": patches.reshape(batch, rows * columns, patch_size**2 * channels),
        "pixel_attention_mask": None,
        # One row for the whole batch: position embeddings are resized once, and broadcast. Its numbers are read by
        # Python code, so it stays on the CPU whatever the device.
        "spatial_shapes": torch.tensor([[rows, columns]]),
    }


def _pool(outputs: ModelOutput, config: FoundationFaceConfig, height: int, width: int) -> Tensor:
    """The (batch, pooled_size) feature that `config.pooling` names, of images of this size."""
    if config.pooling == "image_embeds":
        return outputs.image_embeds
    if config.pooling == "pooler":
        return outputs.pooler_output.flatten(1)  # convolutional backbones keep (batch, channels, 1, 1)
    tokens = outputs.last_hidden_state
    if tokens.ndim != 3:
        raise ValueError(
            f"pooling={config.pooling!r} reads tokens (batch, tokens, channels); this backbone gives a feature map "
            f"{tuple(tokens.shape)}. Choose 'pooler'."
        )
    if config.pooling == "cls":
        return tokens[:, 0]
    # Class and register tokens come first. A pyramid has fewer tokens than patches, and no others.
    patch_size = config.backbone_config.patch_size
    patches = (height // patch_size) * (width // patch_size)
    return tokens[:, -patches:].mean(1)


__all__ = ["FoundationFaceModel", "FoundationFacePreTrainedModel"]

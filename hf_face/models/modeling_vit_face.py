"""InsightFace's and TransFace's vision transformers."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple

from .configuration_vit_face import ViTFaceConfig
from .layers import FusableMixin, TimmAttentionMixin, check_crop_size, refuse_unknown
from .modeling_face import FaceEmbeddingOutput, FacePreTrainedModel, FormerName, face_embedding_output

NUM_KEYPOINTS = 5
CLASSES_FROM = (1, 2, 4)  # patches at which a class of distances begins, in both directions
BUCKETS = 2 * len(CLASSES_FROM) + 1  # classes of distances along an axis


@dataclass
class ViTFaceOutput(FaceEmbeddingOutput):
    """
    Embeddings of a batch of faces, with TransFace's patch statistics.

    Args:
        patch_weights (`torch.Tensor` of shape `(batch, patches)`, *optional*):
            Softmax over patches of the squeeze-and-excitation gates (patch importance in DPAP).
        patch_entropy (`torch.Tensor` of shape `(batch, patches)`, *optional*):
            Standard deviation of each weighted token over its channels, which TransFace uses as its entropy (EHSM).
    """

    patch_weights: Tensor | None = None
    patch_entropy: Tensor | None = None


class ViTFaceEmbeddings(nn.Module):
    """Maps crops `(batch, channels, height, width)` to tokens `(batch, patches, hidden_size)`."""

    def __init__(self, config: ViTFaceConfig):
        super().__init__()
        self.patch = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        self.position = nn.Parameter(torch.zeros(1, config.num_patches, config.hidden_size))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_mask_token else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.patch(pixel_values).flatten(2).transpose(1, 2) + self.position

    def fill_masked(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """Put tokens back to where they were `kept`, and the mask token elsewhere: `(batch, patches, hidden_size)`."""
        masked = self.mask_token.to(tokens.dtype).expand(len(tokens), self.position.shape[1], -1)
        return masked.scatter(1, kept, tokens)


class ViTFaceLayer(GradientCheckpointingLayer, Block):
    """timm's pre-norm transformer layer (scaled dot-product attention, stochastic depth) with a ReLU6 MLP."""

    def __init__(self, config: ViTFaceConfig, index: int):
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            mlp_ratio=(config.intermediate_size + 0.5) / config.hidden_size,  # timm truncates the product
            drop_path=config.drop_path_rate * index / max(config.num_hidden_layers - 1, 1),
            act_layer=nn.ReLU6,
            norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),  # type: ignore[arg-type]
        )


class ViTFaceKeypointBias(nn.Module):
    """
    Keypoint relative position encoding (KP-RPE, Kim et al., CVPR 2024, section 3.2): what is added to the attention
    logits of two patches depends on their distance, in `BUCKETS` x `BUCKETS` classes, and on where the first one is
    relative to the face's landmarks.
    """

    def __init__(self, config: ViTFaceConfig):
        super().__init__()
        self.side = config.image_size // config.patch_size
        self.depth, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.linear = nn.Linear(2 * NUM_KEYPOINTS, BUCKETS**2 * self.heads * self.depth)

    def forward(self, keypoints: Tensor) -> Iterator[Tensor]:
        """The bias `(batch, heads, patches, patches)` of each layer, from `keypoints` `(batch, 5, 2)`."""
        centers = (torch.arange(self.side, device=keypoints.device) + 0.5) / self.side
        y, x = torch.meshgrid(centers, centers, indexing="ij")
        patches = torch.stack([x, y], -1).view(-1, 1, 2)  # (N, 1, 2)
        relative = (patches - keypoints[:, None]).flatten(2)  # (B, N, 10)
        by_bucket = self.linear(relative.to(self.linear.weight.dtype))
        by_bucket = by_bucket.unflatten(2, (self.depth, self.heads, BUCKETS**2)).permute(2, 0, 3, 1, 4)
        index = distance_buckets(self.side, keypoints.device).expand(len(keypoints), self.heads, -1, -1)
        return (of_layer.gather(-1, index) for of_layer in by_bucket)


def distance_buckets(side: int, device: torch.device) -> Tensor:
    """
    The class of the distance between any two of `side` x `side` patches, `(patches, patches)`: iRPE's product method
    (Wu et al., ICCV 2021, equations 18 and 20), exact for neighbors and logarithmic beyond. For whole numbers of
    patches and the published parameters (1.9 and its multiples by 2 and 8), the logarithm comes to `CLASSES_FROM`.
    """
    place = torch.arange(side, device=device)
    distance = place[:, None] - place
    bucket = distance.sign() * sum((distance.abs() >= least).long() for least in CLASSES_FROM) + BUCKETS // 2
    rows, columns = bucket[:, None, :, None], bucket[None, :, None, :]
    return (rows * BUCKETS + columns).view(side**2, side**2)


class ViTFaceGateLinear(nn.Linear):
    """A linear layer that starts as PyTorch's, as in TransFace: the weights of other layers would saturate gates."""


class ViTFacePatchWeighting(nn.Sequential):
    """Computes a gate in (0, 1) for each patch `(batch, patches)` from all flattened tokens."""

    def __init__(self, config: ViTFaceConfig):
        patches = config.num_patches
        super().__init__(
            OrderedDict(
                squeeze=ViTFaceGateLinear(patches * config.hidden_size, patches, bias=False),
                activation=nn.ReLU(),
                excite=ViTFaceGateLinear(patches, patches, bias=False),
                gate=nn.Sigmoid(),
            )
        )


class ViTFaceNeck(nn.Sequential):
    """Maps flattened tokens to the raw embedding `(batch, embedding_size)`."""

    def __init__(self, config: ViTFaceConfig):
        width, eps = config.hidden_size, config.batch_norm_eps
        super().__init__(
            OrderedDict(
                linear1=nn.Linear(config.num_patches * width, width, bias=False),
                norm1=nn.BatchNorm1d(width, eps=eps),
                linear2=nn.Linear(width, config.embedding_size, bias=False),
                norm2=nn.BatchNorm1d(config.embedding_size, eps=eps),
            )
        )


class ViTFacePreTrainedModel(FacePreTrainedModel):
    """Handles the initialization and loading of vision transformers for faces."""

    config_class = ViTFaceConfig
    config: ViTFaceConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _can_compile_fullgraph = True
    _no_split_modules = ["ViTFaceLayer"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module):
        std = self.config.initializer_range
        if isinstance(module, ViTFaceGateLinear):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, ViTFaceEmbeddings):
            nn.init.trunc_normal_(module.position, std=std)
            if module.mask_token is not None:
                nn.init.normal_(module.mask_token, std=std)
        else:
            super()._init_weights(module)


class ViTFaceModel(FusableMixin, TimmAttentionMixin, ViTFacePreTrainedModel):
    """A vision transformer that computes the face embedding from its flattened patch tokens.

    Example:
    ```python
    >>> import torch
    >>> from hf_face import ViTFaceConfig, ViTFaceModel

    >>> model = ViTFaceModel(ViTFaceConfig(num_hidden_layers=2, patch_weighting=True)).eval()
    >>> output = model(torch.zeros(1, 3, 112, 112), output_patch_weights=True)
    >>> output.pooler_output.shape, output.patch_weights.shape
    (torch.Size([1, 512]), torch.Size([1, 144]))
    ```
    """

    def __init__(self, config: ViTFaceConfig):
        super().__init__(config)
        self.embeddings = ViTFaceEmbeddings(config)
        self.layers = nn.ModuleList(ViTFaceLayer(config, index) for index in range(config.num_hidden_layers))
        self.keypoint_bias = ViTFaceKeypointBias(config) if config.position == "keypoint_relative" else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.patch_weighting = ViTFacePatchWeighting(config) if config.patch_weighting else None
        self.neck = ViTFaceNeck(config)
        self.follow_attn_implementation()
        self.register_load_state_dict_pre_hook(_rename_mask_token)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_patch_weights: bool = False,
        output_attentions: bool | None = None,
        keypoints: Tensor | None = None,
        **kwargs,
    ) -> ViTFaceOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, image_size, image_size)`):
                Normalized crops from `FaceImageProcessor`.
            output_hidden_states (`bool`, *optional*):
                Whether to also return the tokens before the first layer and after each layer (in training, unmasked
                tokens only).
            output_patch_weights (`bool`, *optional*, defaults to `False`):
                Whether to also return `patch_weights` and `patch_entropy`; requires `patch_weighting` in the config.
            output_attentions (`bool`, *optional*):
                Whether to also return the attention maps, which eager attention computes whatever else is configured.
            keypoints (`torch.Tensor` of shape `(batch, 5, 2)`, *optional*):
                Left eye, right eye (as seen in the image), nose, left and right corner of the mouth, as (x, y)
                fractions of the crop; required with `position="keypoint_relative"` in the config.

        Raises:
            ValueError: if crops are integers or of another size, keypoints are missing or not expected, or there are
                no patch weights to return.
        """
        refuse_unknown(self, kwargs)
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if not output_attentions:
            return self._embed(pixel_values, keypoints, output_hidden_states, output_patch_weights)
        with self.recorded_attentions() as attentions:
            output = self._embed(pixel_values, keypoints, output_hidden_states, output_patch_weights)
        output["attentions"] = tuple(attentions)
        return output

    def _embed(
        self,
        pixel_values: Tensor,
        keypoints: Tensor | None,
        output_hidden_states: bool | None,
        output_patch_weights: bool,
    ):
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_patch_weights and self.patch_weighting is None:
            raise ValueError("output_patch_weights requires a model with patch_weighting=True in its config.")
        check_crop_size(pixel_values, self.config.image_size)
        biases = self.attention_biases(keypoints, pixel_values.shape[0])  # not `len`, which torch.export takes as fixed

        tokens = self.embeddings(self.prepare_pixels(pixel_values))  # (B, N, C)
        kept = self.choose_tokens(tokens) if self.training and self.config.mask_ratio > 0 else None
        if kept is not None:
            tokens = tokens.gather(1, kept)
        hidden_states: tuple[Tensor, ...] | None = (tokens,) if output_hidden_states else None
        for layer, bias in zip(self.layers, biases, strict=True):
            tokens = layer(tokens, attn_mask=bias)
            if output_hidden_states:
                hidden_states += (tokens,)
        tokens = self.norm(tokens)
        if kept is not None:
            tokens = self.embeddings.fill_masked(tokens, kept)

        last_hidden_state, patches = tokens, {}
        if self.patch_weighting is not None:
            gates = self.patch_weighting(tokens.flatten(1))  # (B, N)
            tokens = tokens * gates.unsqueeze(-1)
            if output_patch_weights:
                patches = {"patch_weights": gates.softmax(1), "patch_entropy": tokens.std(-1)}
        output = face_embedding_output(self.neck(tokens.flatten(1)), last_hidden_state, hidden_states)
        return ViTFaceOutput(**output, **patches)

    def attention_biases(self, keypoints: Tensor | None, batch_size: int) -> Iterable[Tensor | None]:
        """What to add to each layer's attention logits, from the keypoints if the model takes any."""
        if self.keypoint_bias is None:
            if keypoints is not None:
                raise ValueError('keypoints require a model with position="keypoint_relative" in its config.')
            return [None] * len(self.layers)
        if keypoints is None or keypoints.shape != (batch_size, NUM_KEYPOINTS, 2):
            raise ValueError(
                f"This model also takes keypoints of shape ({batch_size}, {NUM_KEYPOINTS}, 2), the landmarks of each "
                f"crop as fractions of its size; found {'none' if keypoints is None else tuple(keypoints.shape)}. A "
                "detector has them, and so has a FaceAlignerModel, CVLface's: `aligner(pixel_values).landmarks`."
            )
        return self.keypoint_bias(keypoints)

    def choose_tokens(self, tokens: Tensor) -> Tensor:
        """Indices `(batch, kept, channels)` of the tokens kept by random masking, drawn separately for each face."""
        batch, length, channels = tokens.shape
        num_kept = int(length * (1 - self.config.mask_ratio))
        order = torch.rand(batch, length, device=tokens.device).argsort(1)
        return order[:, :num_kept, None].expand(-1, -1, channels)


def _rename_mask_token(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
    """Accept the mask token's former name in `load_state_dict`, as the mapping below does in `from_pretrained`."""
    if f"{prefix}mask_token" in state_dict:
        state_dict[f"{prefix}embeddings.mask_token"] = state_dict.pop(f"{prefix}mask_token")


register_checkpoint_conversion_mapping(
    ViTFaceConfig.model_type, [FormerName("^mask_token", "embeddings.mask_token")], overwrite=True
)

__all__ = ["ViTFaceModel", "ViTFaceOutput", "ViTFacePreTrainedModel"]

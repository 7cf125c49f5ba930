"""FRoundation."""

import math
import re
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from ..models import FaceConfig, FaceImageProcessor, FacePreTrainedModel, FoundationFaceConfig
from ..models.configuration_foundation_face import FROUNDATION
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .layout import shape_of
from .source import CheckpointSource, check_unchanged

CLIP_RENAMES = (
    (r"^backbone\.visual_projection\.weight$", "visual.proj"),
    (r"^backbone\.vision_model\.", "visual."),
    (r"embeddings\.class_embedding", "class_embedding"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"embeddings\.patch_embedding", "conv1"),
    (r"pre_layrnorm", "ln_pre"),
    (r"post_layernorm", "ln_post"),
    (r"encoder\.layers", "transformer.resblocks"),
    (r"self_attn\.out_proj", "attn.proj"),
    (r"self_attn", "attn"),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)
DINOV2_RENAMES = (
    (r"^backbone\.", ""),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"mlp\.down_proj", "mlp.weights_out"),
)
# Names that only CLIP and DINOv2 have.
CLIP_ANCHOR, DINOV2_ANCHOR = "visual.class_embedding", "encoder.layer.0.layer_scale1.lambda1"
# A (rank, in) and B (out, rank) of each adapted layer.
LoraFactors = dict[str, tuple[Tensor, Tensor]]
# Names of the two factors of an adapted layer in FRoundation's CLIP (loralib) and in PEFT.
LORA_FACTOR = re.compile(r"^(?P<layer>.+)\.(?:w_lora_(?P<clip>[AB])|lora_(?P<peft>[AB])(?:\.default)?\.weight)$")


@sources.register("froundation", citation=FROUNDATION)
class FRoundation(CheckpointSource):
    """TaharChettaoui/FRoundation: foundation models (CLIP, DINOv2) adapted to face recognition, mostly with LoRA.

    Files contain both CLIP towers, or DINOv2 with the names of transformers 4, and the two factors of each adapted
    weight. The text tower is not converted, since only the vision tower embeds faces. Exports contain only CLIP's
    vision tower: load them in FRoundation with `strict=False`, or add a text tower.
    """

    url = "https://github.com/TaharChettaoui/FRoundation"
    files = "`.pt`, `.pth`"
    license = "CC BY-NC-SA 4.0 (README.md)"
    told = "`lora_alpha`, if it has LoRA layers"
    model_type = "foundation_face"
    text_tower = (
        *("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale"),
        *("input_resolution", "context_length", "vocab_size"),  # of OpenAI's files
    )

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return self.find_prefix(plain_layout(checkpoint.tensors(self.nested_under))) is not None

    def find_prefix(self, tensors: StateDict) -> str | None:
        return "" if tensors.keys() & {CLIP_ANCHOR, DINOV2_ANCHOR} else None

    def not_ours(self, checkpoint: Checkpoint, tensors: StateDict) -> str:
        return (
            f"{checkpoint.origin}: not a checkpoint of {self.name}: expected names such as {CLIP_ANCHOR} (CLIP) or "
            f"{DINOV2_ANCHOR} (DINOv2), found {', '.join(sorted(tensors)[:5])}, ..."
        )

    def convert(
        self,
        checkpoint: Checkpoint,
        lora_alpha: float | None = None,
        use_rslora: bool = True,
        merge_lora: bool = True,
        **overrides,
    ) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
        """See `convert_checkpoint`.

        Args:
            lora_alpha: LoRA's alpha in training, which the file does not contain.
            use_rslora: whether LoRA was scaled by alpha / sqrt(rank), as in FRoundation, or by alpha / rank.
            merge_lora: whether to merge the low-rank updates into the weights, or keep them as PEFT adapter "default".
            **overrides: fields of `FoundationFaceConfig` or of its backbone's config.
        """
        tensors = plain_layout(checkpoint.tensors(self.nested_under))
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(self.text_tower)}
        tensors, factors = split_lora(tensors, checkpoint.origin)
        if factors and lora_alpha is None:
            raise ValueError(
                f"{checkpoint.origin} contains LoRA layers, but not the alpha of their training. Pass `lora_alpha=`."
            )
        if merge_lora:
            for layer, (down, up) in factors.items():
                scale = lora_alpha / (math.sqrt(len(down)) if use_rslora else len(down))
                tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] + scale * up @ down
        model, image_processor = super().convert(Checkpoint(tensors, origin=checkpoint.origin), **overrides)
        if factors and not merge_lora:
            self.load_adapter(model, factors, lora_alpha, use_rslora)
        return model, image_processor

    def export(self, model: FacePreTrainedModel) -> StateDict:
        """Export the vision tower with the names of `clip` and transformers 4, or FRoundation's if it has an adapter.

        CLIP's text tower is not included; strictly loading the whole CLIP requires adding it.
        """
        config = model.config
        kind = config.backbone_config.model_type if config.model_type == self.model_type else config.model_type
        if kind not in ("clip_vision_model", "dinov2"):
            raise ValueError(f"{self.name} supports CLIP's and DINOv2's vision models, not {kind}.")
        pooling = "image_embeds" if kind == "clip_vision_model" else "pooler"
        if config.pooling != pooling or config.embedding_size != config.pooled_size:
            raise ValueError(
                f"{self.name}'s format cannot express pooling={config.pooling!r} with embedding_size="
                f"{config.embedding_size}: its embedding is the output of the backbone."
            )
        check_unchanged(tensors_beneath_adapter(model), config)
        return their_layout({self.their_name(name, config): tensor for name, tensor in model.state_dict().items()})

    def load_adapter(self, model: FacePreTrainedModel, factors: LoraFactors, alpha: float, use_rslora: bool) -> None:
        """Add the LoRA factors to the model as PEFT adapter "default"."""
        from peft import LoraConfig

        ours = {self.their_name(name, model.config): name for name in model.state_dict()}
        layers = {ours[f"{layer}.weight"].removesuffix(".weight"): pair for layer, pair in factors.items()}
        lora = LoraConfig(
            r=len(next(iter(layers.values()))[0]),
            lora_alpha=alpha,  # type: ignore[arg-type]  # any number
            use_rslora=use_rslora,
            target_modules=sorted({layer.rpartition(".")[2] for layer in layers}),
        )
        weights = {f"{layer}.lora_A.weight": down for layer, (down, _) in layers.items()}
        weights |= {f"{layer}.lora_B.weight": up for layer, (_, up) in layers.items()}
        model.load_adapter(peft_config=lora, adapter_state_dict=weights)  # type: ignore[arg-type]

    def config(self, tensors: StateDict, checkpoint: Checkpoint, **overrides) -> FoundationFaceConfig:
        is_clip = CLIP_ANCHOR in tensors
        backbone = (clip_config if is_clip else dinov2_config)(tensors, checkpoint.origin)
        inner = CONFIG_MAPPING[backbone["model_type"]].__dataclass_fields__.keys()
        inner -= FoundationFaceConfig.__dataclass_fields__.keys()
        backbone |= {key: overrides.pop(key) for key in inner & overrides.keys()}
        stated = overrides.pop("backbone_config", {})
        backbone |= stated if isinstance(stated, dict) else stated.to_diff_dict()
        if not backbone["num_attention_heads"]:
            raise ValueError(
                f"{checkpoint.origin}: {backbone['hidden_size']} channels do not split into heads of 64, as in every "
                "published CLIP and DINOv2. Pass `num_attention_heads=`."
            )
        # FRoundation uses DINOv2, which was trained with up to 518 pixels, with 224.
        image_size = backbone["image_size"] if is_clip else min(backbone["image_size"], 224)
        return FoundationFaceConfig(**{"backbone_config": backbone, "image_size": image_size, **overrides})

    def their_name(self, name: str, config: FaceConfig) -> str:
        is_clip = config.backbone_config.model_type == "clip_vision_model"
        for pattern, replacement in CLIP_RENAMES if is_clip else DINOV2_RENAMES:
            name = re.sub(pattern, replacement, name)
        return name

    def image_processor(self, config: FaceConfig, **options) -> FaceImageProcessor:
        return FaceImageProcessor(**{**config.preprocessing, **options})


def without_adapter(model: FacePreTrainedModel) -> FacePreTrainedModel:
    """The base model of a LoRA adapter.

    `save_pretrained` of an adapted model only saves the adapter. If the base model is saved to the same folder,
    `from_pretrained` loads both.
    """
    tensors = tensors_beneath_adapter(model)
    return type(model).from_pretrained(None, config=model.config, state_dict=tensors, dtype=model.dtype)


def tensors_beneath_adapter(model: FacePreTrainedModel) -> StateDict:
    return {k.replace(".base_layer.", "."): t for k, t in model.state_dict().items() if ".lora_" not in k}


def plain_layout(tensors: StateDict) -> StateDict:
    """Unify layouts: no wrapper prefixes; separate query, key and value; the projection as a linear layer's weight."""
    plain = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^(base_model\.)?model\.", "", name).replace(".base_layer.", ".")
        if match := re.match(r"(visual\..+\.attn\.)in_proj_(weight|bias)$", name):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                plain[f"{match[1]}{part}_proj.{match[2]}"] = piece
        elif match := re.match(r"(encoder\..+\.mlp\.)weights_in\.(weight|bias)$", name):
            plain[f"{match[1]}gate_proj.{match[2]}"], plain[f"{match[1]}up_proj.{match[2]}"] = tensor.chunk(2)
        elif name == "visual.proj":
            plain[name] = tensor.T
        else:
            plain[re.sub(r"^(visual\..+\.attn\.)out_proj\.", r"\1proj.", name)] = tensor
    return plain


def their_layout(tensors: StateDict) -> StateDict:
    """The inverse of `plain_layout`. FRoundation splits CLIP's `in_proj` only in models with LoRA."""
    theirs, adapted = {}, any("lora_A" in name for name in tensors)
    for name, tensor in tensors.items():
        if name == "visual.proj":
            theirs[name] = tensor.T.contiguous()
        elif name.startswith("visual.") and adapted:
            name = name.replace(".base_layer.", ".")
            theirs[re.sub(r"\.lora_([AB])\.\w+\.weight$", r".w_lora_\1", name)] = tensor
        elif match := re.match(r"(visual\..+\.attn\.)([qkv])_proj\.(weight|bias)$", name):
            parts = [tensors[f"{match[1]}{part}_proj.{match[3]}"] for part in "qkv"]
            theirs[f"{match[1]}in_proj_{match[3]}"] = torch.cat(parts)
        elif match := re.match(r"(encoder\..+\.mlp\.)(gate|up)_proj\.(weight|bias)$", name):
            parts = [tensors[f"{match[1]}{part}_proj.{match[3]}"] for part in ("gate", "up")]
            theirs[f"{match[1]}weights_in.{match[3]}"] = torch.cat(parts)
        else:
            theirs[re.sub(r"^(visual\..+\.attn\.)proj\.", r"\1out_proj.", name)] = tensor
    return theirs


def split_lora(tensors: StateDict, origin: str) -> tuple[StateDict, LoraFactors]:
    """Separate LoRA factors from all other tensors."""
    plain: StateDict = {}
    factors: dict[str, StateDict] = {}
    for name, tensor in tensors.items():
        if match := LORA_FACTOR.match(name):
            factors.setdefault(match["layer"], {})[match["clip"] or match["peft"]] = tensor
        else:
            plain[name] = tensor
    if broken := [layer for layer, pair in factors.items() if not adapts(pair, plain.get(f"{layer}.weight"))]:
        raise ValueError(
            f"{origin}: expected a weight (out, in) and LoRA factors A (rank, in) and B (out, rank) for each adapted "
            f"layer. One of the three is missing or misshaped for {', '.join(broken)}."
        )
    return plain, {layer: (pair["A"], pair["B"]) for layer, pair in factors.items()}


def adapts(factors: dict[str, Tensor], weight: Tensor | None) -> bool:
    if weight is None or factors.keys() != {"A", "B"}:
        return False
    rank = len(factors["A"])
    return factors["A"].shape == (rank, weight.shape[-1]) and factors["B"].shape == (len(weight), rank)


def clip_config(tensors: StateDict, origin: str) -> dict[str, Any]:
    width, channels, patch_size, _ = shape_of(tensors, "visual.conv1.weight", 4, origin)
    positions, _ = shape_of(tensors, "visual.positional_embedding", 2, origin)
    return {
        "model_type": "clip_vision_model",
        "num_channels": channels,
        "patch_size": patch_size,
        "image_size": math.isqrt(positions - 1) * patch_size,
        "hidden_size": width,
        "num_hidden_layers": count_layers(tensors, "visual.transformer.resblocks."),
        "num_attention_heads": heads_of_64(width),
        "intermediate_size": shape_of(tensors, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2, origin)[0],
        "projection_dim": shape_of(tensors, "visual.proj", 2, origin)[0],
    }


def dinov2_config(tensors: StateDict, origin: str) -> dict[str, Any]:
    width, channels, patch_size, _ = shape_of(tensors, "embeddings.patch_embeddings.projection.weight", 4, origin)
    _, positions, _ = shape_of(tensors, "embeddings.position_embeddings", 3, origin)
    config = {
        "model_type": "dinov2",
        "num_channels": channels,
        "patch_size": patch_size,
        "image_size": math.isqrt(positions - 1) * patch_size,
        "hidden_size": width,
        "num_hidden_layers": count_layers(tensors, "encoder.layer."),
        "num_attention_heads": heads_of_64(width),
        "use_mask_token": "embeddings.mask_token" in tensors,
        "use_swiglu_ffn": "encoder.layer.0.mlp.gate_proj.weight" in tensors,
    }
    if not config["use_swiglu_ffn"]:
        config["mlp_ratio"] = shape_of(tensors, "encoder.layer.0.mlp.fc1.weight", 2, origin)[0] // width
    return config


def heads_of_64(width: int) -> int | None:
    return width // 64 if width % 64 == 0 else None


def count_layers(tensors: StateDict, prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)})

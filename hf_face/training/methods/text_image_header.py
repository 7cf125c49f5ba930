"""CLIP's image and text encoder with one margin head."""

from typing import Any

import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoTokenizer

from ...models import FoundationFaceModel
from ...models.configuration_foundation_face import FROUNDATION
from ...models.modeling_face import face_embedding_output
from ...registry import methods
from .base import TrainingMethod


@methods.register("text_image_header", citation=FROUNDATION)
class TextImageHeader(TrainingMethod):
    r"""
    FRoundation's `text_image_header`: CLIP's image and text encoder learn from one margin head.

    With e_i the image's embedding and t_i that of the text "a photo of a {identity}.", where the identity is a number,
    the loss is

        ( head(e_i, y_i) + head(t_i, y_i) ) / 2

    with the same class centers for both. The text encoder is trained like the backbone: with an adapter of the same
    settings if it has one, as a whole otherwise. It is checkpointed, but not published: embedding a face takes none.

    Args:
        text_model: Folder or Hub name of a CLIP with its text encoder and tokenizer; the one that the backbone was
            loaded from by default.
        template: The text, with `{identity}` for the number of the identity.

    Inputs: `pixel_values` (B, 3, H, W) and `labels` (B,). Logs `embedding_norm` and `target_cosine` of the images.

    Example:
    ```python
    >>> backbone = FoundationFaceModel.from_backbone("openai/clip-vit-base-patch16")  # doctest: +SKIP
    >>> model = FaceRecognitionModel.from_backbone(backbone, num_identities=1000)  # doctest: +SKIP
    >>> trainer = FaceTrainer(model, args, train_dataset=people, method=TextImageHeader())  # doctest: +SKIP
    ```
    """

    def __init__(self, text_model: str | None = None, template: str = "a photo of a {identity}."):
        super().__init__()
        if "{identity}" not in template:
            raise ValueError(f"text_image_header: template must contain {{identity}}, found {template!r}.")
        self.text_model, self.template = text_model, template
        self.text_encoder: nn.Module | None = None
        self._tokenizer: Any = None
        self._judge: Any = None  # the head's forward, since the head itself belongs to the model

    def setup(self, trainer: Any) -> None:
        """
        Load the text encoder and its tokenizer.

        Raises:
            ValueError: if the backbone is not the image encoder of a CLIP, with its projection.
        """
        model = trainer.model
        backbone: Any = model.backbone.get_base_model() if isinstance(model.backbone, PeftModel) else model.backbone
        text_class = _text_class(backbone)
        self._judge = model.head.forward
        if self.text_encoder is not None:
            return
        name = self.text_model or backbone.backbone.name_or_path
        if not name:
            raise ValueError("The backbone was not loaded from a CLIP, so text_image_header requires its text_model.")
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self.text_encoder = text_class.from_pretrained(name)
        if isinstance(model.backbone, PeftModel):
            self.text_encoder = get_peft_model(self.text_encoder, _same_lora(model.backbone))

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        labels = batch["labels"]
        texts = [self.template.format(identity=label) for label in labels.tolist()]
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt").to(labels.device)
        output = model(
            pixel_values=batch["pixel_values"],
            labels=labels,
            further=lambda _: {"text": self._text_loss(tokens, labels)},
        )
        self.observe(embedding_norm=output.norm.mean(), target_cosine=output.target_cosine.mean())
        return {"image": output.loss / 2, "text": output.further["text"] / 2}

    def _text_loss(self, tokens: Any, labels: Tensor) -> Tensor:
        assert self.text_encoder is not None
        text = self.text_encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        embedding = face_embedding_output(text.text_embeds)
        return self._judge(embedding.pooler_output, embedding.norm, labels).loss


def _text_class(backbone: Any) -> Any:
    """transformers' class of the text encoder that belongs to a backbone."""
    settings = getattr(backbone.config, "backbone_config", None)
    name = type(settings).__name__.replace("VisionConfig", "TextModelWithProjection")
    is_clip = isinstance(backbone, FoundationFaceModel) and backbone.config.pooling == "image_embeds"
    if not is_clip or not hasattr(transformers, name):
        kind = backbone.config.model_type if settings is None else settings.model_type
        raise ValueError(
            f"text_image_header trains image and text encoder of a CLIP, but {kind!r} is a vision model without a text "
            "encoder: use margin_softmax, or a CLIP as backbone."
        )
    if backbone.config.embedding_size != settings.projection_dim:
        raise ValueError(
            f"text_image_header compares texts and images with the same class centers: leave embedding_size at CLIP's "
            f"{settings.projection_dim}, found {backbone.config.embedding_size}."
        )
    return getattr(transformers, name)


def _same_lora(backbone: PeftModel) -> LoraConfig:
    """The backbone's settings of LoRA, for all layers of another encoder."""
    lora: Any = backbone.peft_config["default"]
    names = ("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "bias", "use_dora", "init_lora_weights")
    return LoraConfig(**{name: getattr(lora, name) for name in names})


__all__ = ["TextImageHeader"]

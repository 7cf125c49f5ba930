"""The folder to publish: matching weights, code, image processor, card and figures."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from PIL import Image, UnidentifiedImageError
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModel, BaseImageProcessor, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from ..files import check_own_files, check_weights, read_json
from ..heads import MarginHead, save_head
from ..heads.head_files import INDEX_NAME as HEAD_INDEX_NAME
from ..heads.head_files import read_index
from ..models.loading import load_image_processor
from ..models.pipeline_face_embedding import FaceEmbeddingPipeline
from ..models.pipeline_face_verification import FaceVerificationPipeline
from ..recognition import FaceRecognitionConfig
from ..registry import families
from .card_data import CARD_DATA_NAME, FaceModelCardData
from .endpoint import write_endpoint
from .measuring import evaluated_on_cpu
from .model_card import card_metadata, check_metadata, collect_citations, create_model_card
from .onnx_files import copy_onnx_files

LOG_NAME = "training_log.json"
PIPELINES = {"face-embedding": FaceEmbeddingPipeline, "face-verification": FaceVerificationPipeline}
NO_CARD = "Publishing a model requires a card: card=FaceModelCardData(license=..., training_data=[...])."
FIGURE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")  # what browsers show


def write_model_folder(
    model: PreTrainedModel | str | Path,
    folder: str | Path,
    repo_id: str,
    *,
    card: FaceModelCardData | None = None,
    image_processor: BaseImageProcessor | None = None,
    include_head: bool = False,
    endpoint: bool = False,
    max_shard_size: int | str = "50GB",
    tags: list[str] | None = None,
) -> Path:
    """
    Write the contents of the repository `repo_id` to `folder`, and check that code, weights and image processor match.
    The folder loads like the repository: `AutoModel.from_pretrained(folder, trust_remote_code=True)`.

    Args:
        model: A backbone, a training model (to publish its backbone), or a folder with either of them. LoRA adapters
            are merged.
        folder: Folder to write to, created if it does not exist. transformers caches the code under its base name.
        repo_id: The name that the card's code samples load.
        card: Data of the card. Defaults to the `model_card.json` in the model's folder, which a model in memory has if
            its weights have not changed since loading.
        image_processor: Defaults to the one in that folder.
        include_head: Whether to write the training model's margin head too, see `hf_face.heads.head_files`.
        endpoint: Whether to write what Inference Endpoints run, `handler.py` and its `requirements.txt`.
        max_shard_size: Largest size of a file of weights; larger ones are split.
        tags: Further tags of the card.

    Raises:
        FileNotFoundError: if the model folder has no weights, configuration, image processor or card data.
        ValueError: if licenses are missing, the Hub would reject the metadata, or the weights do not fit the code.
    """
    folder, source = Path(folder), None
    if isinstance(model, str | Path):
        source = Path(model)
        check_own_files(source)
        card = card or load_card_data(source)
        image_processor = image_processor or load_image_processor(source)
        model = load_model(source)
    elif card is None or image_processor is None:
        source = folder_of(model)
        card, image_processor = complete_from(source, card, image_processor)
    if card is None:
        raise ValueError(NO_CARD)
    if image_processor is None:
        raise ValueError("Publishing a model requires its image processor: image_processor=FaceImageProcessor(...).")
    card = dataclasses.replace(card, tags=[*card.tags, *(tags or [])])
    backbone = bare_backbone(model)
    check_card_data(card, backbone.config)
    backbone.save_pretrained(folder, max_shard_size=max_shard_size)
    image_processor.save_pretrained(folder)
    if include_head:
        add_head(model, source, folder)
    add_pipelines(folder)
    if source is not None:
        copy_onnx_files(source, folder, backbone)
    if endpoint:
        write_endpoint(folder)
    write_model_card(folder, backbone, image_processor, card, repo_id)
    check_model_folder(folder, backbone, image_processor)
    return folder


def complete_from(
    source: Path | None, card: FaceModelCardData | None, image_processor: BaseImageProcessor | None
) -> tuple[FaceModelCardData | None, BaseImageProcessor | None]:
    """The card's data and the image processor, from the model's folder where they are not given and it has them."""
    if card is None and source is not None and (source / CARD_DATA_NAME).is_file():
        card = load_card_data(source)
    if image_processor is None and source is not None and (source / IMAGE_PROCESSOR_NAME).is_file():
        image_processor = load_image_processor(source)
    return card, image_processor


def bare_backbone(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The backbone of a model, with LoRA adapters merged into a copy."""
    backbone: Any = model if model.config.model_type in families else model.backbone
    return copy.deepcopy(backbone).merge_and_unload() if isinstance(backbone, PeftModel) else backbone


def add_head(model: PreTrainedModel, source: Path | None, folder: Path) -> None:
    """Save a training model's margin head next to its backbone, or copy the one in its folder."""
    head = getattr(model, "head", None)
    if isinstance(head, MarginHead):
        refuse_split_head(head)
        save_head(head, folder)
    elif source is not None and (source / HEAD_INDEX_NAME).is_file():
        shards = read_index(source)["shards"]
        for name in (HEAD_INDEX_NAME, *(shard["file"] for shard in shards)):
            copy_file(source / name, folder / name)
    else:
        raise ValueError(f"include_head=True requires a training model, but {type(model).__name__} has no head.")


def add_pipelines(folder: Path) -> None:
    """Copy the code of the pipelines that take photographs, for where hf_face is not installed."""
    config = read_json(folder / CONFIG_NAME)
    config["custom_pipelines"] = {}
    for task, pipeline_class in PIPELINES.items():
        custom_object_save(pipeline_class, folder)
        name = f"{pipeline_class.__module__.rpartition('.')[2]}.{pipeline_class.__name__}"
        config["custom_pipelines"][task] = {"impl": name, "pt": ["AutoModel"], "type": "image"}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def refuse_split_head(head: MarginHead) -> None:
    if head.group is not None:
        raise ValueError(
            "The margin head is split over ranks: push a checkpoint folder, which contains all of it, with "
            "push_to_hub('run/checkpoint-1000', ..., include_head=True)."
        )


def folder_of(model: PreTrainedModel) -> Path | None:
    """The folder a model was loaded from, if its weights have not changed since."""
    if not model.name_or_path:
        return None
    weights, found = model.state_dict(), set()
    for file in Path(model.name_or_path).glob("model*.safetensors"):
        with safe_open(file, "pt") as saved:
            for name in saved.keys():  # noqa: SIM118  not a dictionary
                if name not in weights or not _equal(saved.get_tensor(name), weights[name].cpu()):
                    return None
                found.add(name)
    return Path(model.name_or_path) if found == weights.keys() else None


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def write_model_card(
    folder: str | Path,
    backbone: PreTrainedModel,
    image_processor: BaseImageProcessor,
    card: FaceModelCardData,
    repo_id: str,
) -> None:
    """
    Write the card of the model saved in `folder`, with its figures, the training log and the card's data, and save the
    calibrated thresholds in the configuration.

    Arguments and errors as for [`write_model_folder`].
    """
    folder = Path(folder)
    names = [Path(figure).name for figure in card.figures]
    if len(set(names)) < len(names):
        raise ValueError(f"Two figures have the same file name: {sorted(names)}.")
    check_card_data(card, backbone.config)
    create_model_card(card, backbone, image_processor, repo_id).save(folder / "README.md")
    write_thresholds(folder / "config.json", card)
    for figure, name in zip(card.figures, names, strict=True):
        copy_file(Path(figure), folder / "figures" / name)
    if card.log_history:
        (folder / LOG_NAME).write_text(json.dumps(card.log_history, indent=2) + "\n", encoding="utf-8")
    dataclasses.replace(card, figures=[f"figures/{name}" for name in names]).save(folder)


def check_card_data(card: FaceModelCardData, config: PreTrainedConfig) -> None:
    """
    Check the publisher's statements about a backbone with this configuration, without writing a card.

    Raises:
        FileNotFoundError: if a figure does not exist.
        ValueError: if licenses are missing, the Hub would reject the metadata, a citation is unknown, or a figure is
            not an image.
    """
    check_licenses(card)
    check_metadata(card_metadata(card, config.model_type, config.margin, "model"))
    collect_citations(card, config)
    for figure in card.figures:
        check_figure(Path(figure))


def check_figure(path: Path) -> None:
    """
    Raises:
        ValueError: if the file is not an image, whatever its name says. A card from elsewhere may name any file.
    """
    try:
        with Image.open(path, formats=FIGURE_FORMATS) as image:
            image.verify()
    except UnidentifiedImageError as error:
        raise ValueError(f"The figure {path} is not an image ({', '.join(FIGURE_FORMATS)}).") from error


def write_thresholds(config_file: Path, card: FaceModelCardData) -> None:
    """Replace the configuration's thresholds, which may be those of the weights that were fine-tuned."""
    config = read_json(config_file)
    config.pop("similarity_thresholds", None)
    if card.calibration:
        config["similarity_thresholds"] = card.calibration.thresholds
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, unless source and target are the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)


def load_model(folder: Path) -> PreTrainedModel:
    """Load the backbone or training model of a folder, checking all weights."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is not a model folder.")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise FileNotFoundError(f"{folder} has no weights, expected model.safetensors.")
    model_type = read_json(folder / "config.json").get("model_type")
    if not is_face_model(model_type):
        raise ValueError(
            f"{folder} contains a model of type {model_type!r}, expected one of {', '.join(sorted(families))}."
        )
    for weights in folder.glob("*.safetensors"):
        check_weights(weights)
    return load_every_weight(AutoModel, folder)


def is_face_model(model_type: str | None) -> bool:
    """Whether this is the type of a backbone or training model."""
    return model_type in families or model_type == FaceRecognitionConfig.model_type


def load_every_weight(model_class: Any, folder: Path, **kwargs) -> PreTrainedModel:
    """`from_pretrained` with an error for missing, unexpected and misshaped weights."""
    model, report = model_class.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    wrong = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "of another shape": sorted(name for name, *_ in report["mismatched_keys"]),
    }
    if any(wrong.values()):
        found = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in wrong.items()
            if names
        ]
        raise ValueError(
            f"The weights in {folder} do not fit {type(model).__name__} as its config.json describes it: "
            f"{', '.join(found)}."
        )
    return model


def load_card_data(folder: Path) -> FaceModelCardData:
    if not (folder / CARD_DATA_NAME).is_file():
        raise FileNotFoundError(
            f"{folder} has no {CARD_DATA_NAME}; pass card=FaceModelCardData(license=..., training_data=[...])."
        )
    return FaceModelCardData.load(folder)


def check_licenses(card: FaceModelCardData) -> None:
    """Check that the publisher stated the licenses of the weights and of all training data."""
    if not card.license:
        raise ValueError("State the license of the weights: license='apache-2.0', 'cc-by-nc-4.0', ..., 'unknown'.")
    if not card.training_data:
        raise ValueError("State what the weights were trained on: training_data=[TrainingData(name, license), ...].")
    for source in card.training_data:
        if not source.license:
            raise ValueError(f"State the license or terms of the training data {source.name!r}.")


def check_model_folder(folder: Path, backbone: PreTrainedModel, image_processor: BaseImageProcessor) -> None:
    """
    Check that the code in the folder, as used without hf_face, fits the folder's weights and has the same output as
    `backbone`. The code runs on the tensors of `backbone`, to avoid a second copy of the weights.

    Raises:
        ValueError: if weights do not fit, or the outputs differ.
    """
    if broken := [name for name, weight in backbone.state_dict().items() if not weight.isfinite().all()]:
        raise ValueError(f"{len(broken)} weights have non-finite values, for example {broken[0]}.")
    code = get_class_from_dynamic_module(AutoConfig.from_pretrained(folder).auto_map["AutoModel"], folder)
    attention = backbone.config._attn_implementation  # others round differently
    published = load_every_weight(code, folder, device_map="meta", attn_implementation=attention)

    size = image_processor.size  # type: ignore[attr-defined]  # every image processor has one
    generator = torch.Generator().manual_seed(0)
    crop = torch.randint(256, (1, 3, size.height, size.width), dtype=torch.uint8, generator=generator)
    with evaluated_on_cpu(backbone), torch.inference_mode():
        published.load_state_dict(backbone.state_dict(), assign=True)
        for name, buffer in backbone.named_buffers():  # including those that are not saved
            module, _, leaf = name.rpartition(".")
            setattr(published.get_submodule(module), leaf, buffer)
        pixel_values = image_processor(crop, return_tensors="pt").pixel_values.to(backbone.dtype)
        here, there = backbone(pixel_values), published.eval()(pixel_values)
    difference = (here.pooler_output - there.pooler_output).abs().max().item()
    if not difference < 1e-5:
        raise ValueError(
            f"The output of the code in {folder} differs from {type(backbone).__name__} with the same weights: the "
            f"embeddings differ by {difference:.2g}."
        )

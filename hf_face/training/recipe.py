"""Building the data, the model and the method of a training run from a recipe."""

from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset
from torch.distributed import ProcessGroup
from transformers import AutoConfig, AutoModel

from ..data import (
    load_identities,
    make_verification_pairs,
    merge_identities,
    select_identities,
    split_identities,
)
from ..evaluation import Evaluator, VerificationEvaluator
from ..evaluation.protocols import load_protocol
from ..heads import load_head
from ..heads.head_files import find_head
from ..models import FaceConfig, FaceImageProcessor, FoundationFaceModel
from ..models.loading import load_image_processor
from ..recognition import FaceRecognitionConfig, FaceRecognitionModel
from ..registry import families, methods
from ..user_input import check_exists
from .lora import add_lora
from .methods import TrainingMethod
from .recipe_arguments import MEANS, DataArguments, ModelArguments

SHUFFLE_BUFFER = 10_000  # buffered images of a stream: 45 MB of 112-pixel JPEG crops


def load_data(args: DataArguments) -> tuple[Dataset | IterableDataset, list[Evaluator]]:
    """Load the training data and the protocols of a recipe."""
    evaluators = [evaluator for spec in args.eval_data for evaluator in load_protocol(spec)]
    if args.streaming:
        return _load_stream(args), evaluators
    sources = [load_identities(name, compact=args.compact, **_source_options(args)) for name in args.train_data]
    train = sources[0] if len(sources) == 1 else merge_identities(sources)
    if args.held_out_identities:
        train, held_out = split_identities(train, args.held_out_identities, seed=args.split_seed)
        name = Path(args.train_data[0]).stem if len(sources) == 1 else "held_out"
        evaluators.append(VerificationEvaluator(make_verification_pairs(held_out, seed=args.split_seed, name=name)))
    train = select_identities(
        train, args.num_identities, args.images_per_identity, args.min_images_per_identity, args.split_seed
    )
    return train, evaluators


def _source_options(args: DataArguments) -> dict[str, Any]:
    return {"split": args.split, "image_column": args.image_column, "label_column": args.label_column}


def _load_stream(args: DataArguments) -> IterableDataset:
    if len(args.train_data) > 1 or args.held_out_identities:
        raise ValueError(
            "streaming reads one source and cannot hold out people: set eval_data and a single train_data."
        )
    if args.images_per_identity is not None or args.min_images_per_identity > 1 or args.compact:
        raise ValueError(
            "streaming takes every image: images_per_identity and min_images_per_identity select images, and compact "
            "people, which requires streaming: false."
        )
    options = _source_options(args)
    stream = load_identities(args.train_data[0], streaming=True, num_identities=args.num_identities, **options)
    if not isinstance(stream.features["label"], ClassLabel):
        raise ValueError(
            f"{args.train_data[0]} does not define its number of people (its labels are {stream.features['label']}): "
            "set num_identities."
        )
    return stream.shuffle(seed=args.split_seed, buffer_size=SHUFFLE_BUFFER)


def build_model(
    args: ModelArguments, num_identities: int, head_group: ProcessGroup | None = None
) -> tuple[FaceRecognitionModel, FaceImageProcessor]:
    """Build a recipe's training model, with class centers split over `head_group` if given, and image processor."""
    head: dict[str, Any] = {
        "num_identities": num_identities,
        "margin": args.margin,
        "margin_kwargs": args.margin_kwargs,
        "scale": args.scale,
        "sub_centers": args.sub_centers,
        "chunk_size": args.chunk_size,
        "filter_threshold": args.filter_threshold,
    }
    name = args.model_name_or_path
    if name is not None:
        check_exists(name)
        if not isinstance(AutoConfig.from_pretrained(name), FaceConfig):
            backbone = FoundationFaceModel.from_backbone(name, **(args.backbone or {}))
            image_processor = FaceImageProcessor(**backbone.config.preprocessing)
        elif args.backbone:
            raise ValueError(
                f"backbone sets {', '.join(args.backbone)}, but {name} is a face model with its own settings."
            )
        else:
            backbone, image_processor = AutoModel.from_pretrained(name), load_image_processor(name)
        model = FaceRecognitionModel.from_backbone(backbone, head_group, **head)
    else:
        model_type = families[args.backbone.get("model_type", "timm_face")].name
        config = AutoConfig.for_model(**{**args.backbone, "model_type": model_type})
        image_processor = FaceImageProcessor(**config.preprocessing)
        model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=config, **head), head_group=head_group)
    if args.published is not None:
        args.published.check_size(model.backbone)
    if args.head_from not in (None, MEANS):
        load_head(model.head, find_head(args.head_from))
    return (add_lora(model, args.lora) if args.lora else model), image_processor


def build_method(args: ModelArguments) -> TrainingMethod | None:
    """Build the training method of a recipe, or None for the trainer's default."""
    return None if args.method is None else methods.build(args.method)

